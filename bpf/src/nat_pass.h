/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * NAT: from a packet's session to its other end: the next hop, its limits, the session's state, and the translation.
 */
#pragma once

#include "forward.h"
#include "handle.h"
#include "icmp_error.h"
#include "lb.h"
#include "nat_flow.h"
#include "nat_icmp.h"
#include "nat_layout.h"
#include "nat_mss.h"
#include "packet.h"
#include "plain.h"
#include "session.h"
#include "stats.h"
#include "track.h"
#include "translate.h"

#if NAT
/* Whether the packet cannot go to the other end of its session, and why: then `event` becomes another. */
static __always_inline bool is_undeliverable(struct xdp_md *ctx, const struct nat_hop *hop, const struct packet *pkt,
					     enum counter *event)
{
	if (!hop || !hop->known)
		*event = DROP_NAT_NO_MAC;
	else if (is_last_hop(ctx, pkt))
		*event = DROP_NAT_TTL;
	else
		return false;
	return true;
}

static __always_inline bool is_error(const struct packet *pkt)
{
	return !pkt->plain && pkt->icmp_error;
}

/* Follow the packet's session, and send the packet to its other end. As handle_nat() sets `event` and `counted`. */
static __always_inline int pass_on(struct xdp_md *ctx, const struct uplink *uplink, const struct nat_conf *nat,
				   struct nat_flow *flow, u32 transport, struct packet *pkt, enum counter *event)
{
	struct record record = {};
	struct session *session = find_record(flow->slot, pkt, &record);
	struct segment segment = {};
	const struct nat_hop *hop;
	struct stats *s;
	bool clamps;

	if (!session)
		return XDP_DROP; /* never */
	if (pkt->protocol == IPPROTO_TCP && !is_error(pkt) && !read_segment(ctx, transport, &segment))
		return XDP_DROP; /* never */
	flow->counted = session->service_slot;
	*event = flow->reply ? FORWARD_CLIENT : FORWARD_BACKEND;
	hop = find_hop(nat, session, flow->reply);
	clamps = segment.flags & TCP_SYN && nat->mss[pkt->family == 6];
	if (pkt->plain && hop && (pkt->length > hop->mtu || hop->vlan))
		return NOT_PLAIN;
	if (is_undeliverable(ctx, hop, pkt, event))
		return XDP_DROP;
	if (!pkt->plain && pkt->length > hop->mtu) {
		*event = DROP_TOO_BIG;
		if (!reply_too_big(ctx, pkt, hop->mtu))
			return XDP_DROP;
		*event = REPLY_TOO_BIG;
		return hairpin(ctx, uplink);
	}
	if (is_error(pkt))
		return pass_error_on(ctx, uplink, hop, flow->slot, flow->reply, transport, pkt, event);
	if (track(nat, flow->slot, session, &segment, pkt, flow->reply)) {
		s = stats_of(flow->counted);
		if (s)
			count(s, RX_FAR_RESET);
	}
	if (clamps)
		lower_mss(ctx, transport, nat->mss[pkt->family == 6]);
	return translate(ctx, uplink, hop, flow->slot, flow->reply, transport, pkt, event);
}
#endif
