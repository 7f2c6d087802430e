/* SPDX-License-Identifier: GPL-2.0-only */
/* Counting. A packet's path looks its service's counters up once and then only adds. */
#pragma once

#include "lb.h"
#include "maps.h"

static __always_inline struct stats *stats_of(u32 slot)
{
	return stats.lookup(&slot);
}

static __always_inline void count(struct stats *s, enum counter event)
{
	s->count[event]++;
}

/* For an event that the verifier does not know; the compiler must not widen it apart from the comparison. */
static __always_inline void count_any(struct stats *s, u64 event)
{
	asm("" : "+r"(event));
	if (event < COUNTERS)
		s->count[event]++;
}
