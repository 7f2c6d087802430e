/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The grace of a row that has just changed: a packet that finds no node to try is dropped, not answered. A packet takes
 * along that a row which led it on is in grace: where it ends, the change may not be known yet.
 */
#pragma once

#include "lb.h"
#include "maps.h"
#include "service.h"

static __always_inline bool is_row_in_grace(u32 table, u32 r)
{
	void *all = grace.lookup(&table);
	u64 *until = all ? bpf_map_lookup_elem(all, &r) : NULL;

	return until && *until && bpf_ktime_get_coarse_ns() < *until;
}

static __always_inline bool is_in_grace(const struct conf *conf, const struct packet *pkt, u32 table, u32 r,
					u32 other_r)
{
	return pkt->in_grace || is_row_in_grace(table, r) ||
	       (uses_two_banks(conf, pkt) && is_row_in_grace(other_table(table), other_r));
}
