/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Token buckets per CPU: each use costs so much of a budget of time that grows with the clock, and at most a burst may
 * be spent ahead. The burst must exceed a tick (10 ms at most): the clock is the coarse one.
 */
#pragma once

#include "lb.h"
#include "maps.h"
#include "packet.h"

/* Whether one more use is within the limit; then it is charged. */
static __always_inline bool is_within_limit(enum rate_limit limit, u32 cost_ns, u32 burst_ns)
{
	u64 now = bpf_ktime_get_coarse_ns();
	u32 index = limit;
	u64 *used = spent.lookup(&index);

	if (!used)
		return false;
	if (*used < now)
		*used = now;
	if (*used - now > burst_ns)
		return false;
	*used += cost_ns;
	return true;
}

/* Whether a packet that was forwarded before may be forwarded once more. */
static __always_inline bool may_forward_again(const struct conf *conf, const struct packet *pkt)
{
	return pkt->hop < conf->unmetered ||
	       is_within_limit(LIMIT_FORWARD_AGAIN, conf->again_cost_ns, conf->again_burst_ns);
}
