/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The chain of a row, and the one that the rows of two epochs make together.
 *
 * A node may use the rows of two epochs, so that a switch from one to the other moves no connections. Then the chain
 * is joined from both, in the order of conf.order: the first four places of the row of new flows and the first three of
 * the other, each node at its first place. Either they alternate, so that the owners of both epochs come first: walked
 * over every mixture of nodes that switched and nodes that did not, and all pairs of chains of up to 5 nodes, each
 * owner's packets reach it within two forwards, while one row after the other misdirected some. Or the other's come
 * last: when some nodes know only the one row, places must mean the same on all. After these come, as far as there is
 * room, the nodes that have places by their claims alone: from place CLAIMS on, in turn of both rows.
 */
#pragma once

#include "flow.h"
#include "lb.h"
#include "maps.h"
#include "nat_pool.h"
#include "packet.h"
#include "service.h"
#include "verifier.h"

#define CLAIMS 4     /* the place from which on the rest of a row comes last */
#define ABSENT CHAIN /* the place of a node that is not in the chain */

static __always_inline u32 place_of(const struct row *row, u16 node)
{
	u32 place;

#pragma unroll
	for (place = 0; place < CHAIN; place++)
		if (row->node[place] == node)
			return place;
	return ABSENT;
}

/* place_of() != ABSENT, without its branches: whether one 16-bit lane is 0 once the node is subtracted from all. */
static __always_inline bool is_in_row(const struct row *row, u64 node)
{
	const u64 ones = 0x0001000100010001, highs = 0x8000800080008000;
	const u64 *words = (const u64 *)row->node;
	u64 a = words[0] ^ node * ones, b = words[1] ^ node * ones;

	return (((a - ones) & ~a) | ((b - ones) & ~b)) & highs;
}

/*
 * Return the row in the other bank's table of a packet whose row is `r`. A packet to the NAT pool has the same one: its
 * address and port name the row.
 */
static __always_inline u32 other_row(const struct conf *conf, const struct service *service, u32 r,
				     const struct packet *pkt)
{
	if (pkt->nat && is_in_pool(pkt))
		return r;
	return flow_hash(conf->hash_key[active_bank(conf) ^ 1], service, pkt) & ((pkt->nat ? NAT_ROWS : ROWS) - 1);
}

static __always_inline bool contains(const struct row *row, u32 places, u16 node)
{
	u32 k;

#pragma unroll
	for (k = 0; k < places; k++)
		if (row->node[k] == node)
			return true;
	return false;
}

/* Join two rows into one chain; see the top. */
static __always_inline const struct row *join_rows(const struct conf *conf, const struct row *row,
						   const struct row *other)
{
	u32 zero = 0, length = 0, at, k;
	struct row *all = joint.lookup(&zero);
	u16 node;
	u8 from;

	if (!all)
		return row;
	__builtin_memset(all, 0, sizeof(*all));
#pragma unroll
	for (k = 0; k < JOINED_PLACES; k++) {
		from = conf->order[k];
		node = (from & CHAIN ? other : row)->node[from & (CHAIN - 1)];
		if (node && !contains(all, k, node)) {
			all->node[length & (CHAIN - 1)] = node;
			length++;
		}
		FORGET(conf, length);
	}
#pragma unroll
	for (k = 0; k < 2 * (CHAIN - CLAIMS); k++) {
		node = (k & 1 ? other : row)->node[CLAIMS + (k >> 1)];
		if (node && length < CHAIN && !contains(all, CHAIN, node)) {
			/* clang drops a mask that the condition makes superfluous; the verifier needs it. */
			at = length;
			asm("%0 &= %1" : "+r"(at) : "i"(CHAIN - 1));
			all->node[at] = node;
			length++;
		}
		FORGET(conf, length);
	}
	return all;
}
