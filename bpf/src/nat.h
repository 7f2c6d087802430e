/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * NAT: services whose backends run nothing of ours. A client's packet goes to a backend from an address of the pool, so
 * that the answer comes back here.
 *
 * A packet's row names the nodes that may have its session, and the rule of pick.h leads it there: with "a session
 * here" in place of "a socket here". The row of a client's packet is that of its flow; the row of a backend's packet is
 * that of the endpoint it goes to, a part of the session's slot: any node that a router chose finds the owner. All
 * services of mode nat share one table of rows, by their five-tuple.
 *
 * Straight from the router, only an owner looks for a session: other nodes of the chain may have copies, but the state
 * is followed in one place. While two epochs are in use, a session is looked for by the keys of both.
 *
 * Fragments are dropped. nat_flow.h has the search, nat_pass.h what becomes of a packet whose session is here. A
 * session's rules are in session.h, track.h, new_session.h and translate.h.
 */
#pragma once

#include "handle.h"
#include "lb.h"
#include "nat_flow.h"
#include "nat_layout.h"
#include "nat_pass.h"
#include "nat_pool.h"
#include "nat_reset.h"
#include "new_session.h"
#include "packet.h"
#include "pick.h"
#include "verifier.h"

#if NAT
/* See verifier.h. The plain program has fewer paths, and its packet comes from a map. */
static __always_inline void forget_all(const struct conf *conf, struct packet *pkt, struct nat_flow *flow)
{
	FORGET_NOW(conf, flow->reply);
	FORGET_NOW(conf, flow->slot);
	FORGET_NOW(conf, pkt->opens);
	FORGET_NOW(conf, pkt->protocol);
	FORGET_NOW(conf, pkt->family);
	if (!pkt->plain) {
		FORGET_NOW(conf, flow->counted);
		FORGET_NOW(conf, pkt->outer);
		FORGET_NOW(conf, pkt->hop);
		FORGET_NOW(conf, pkt->prev_family);
		FORGET_NOW(conf, pkt->icmp_error);
	}
}

/* No node has the packet's session. */
static __always_inline enum counter reject(const struct nat_flow *flow)
{
	return flow->reply ? DROP_NAT_FOREIGN : DROP_NAT_NO_SESSION;
}

/* Count a packet that ends here, and return its verdict. */
static __always_inline int end(struct xdp_md *ctx, const struct conf *conf, const struct packet *pkt, u32 slot,
			       enum counter event, int verdict)
{
	struct stats *s = stats_of(slot);

	if (s) {
		count_arrival(s, pkt);
		count_any(s, event);
	}
	sample_packet(ctx, conf, pkt, slot, event);
	return verdict;
}

/*
 * A parser leaves the packet to another program: walked together, the two take millions of steps. `transport` is as for
 * handle_nat().
 */
static __always_inline int leave_parsed(const struct packet *pkt, u32 transport)
{
	u32 zero = 0;
	struct nat_parsed *parsed = nat_parsed_packets.lookup(&zero);

	if (!parsed)
		return XDP_DROP; /* never */
	parsed->pkt = *pkt;
	parsed->transport = transport;
	return FOR_NAT;
}

/* Leave a packet of the general parser, unless it is for no service of mode nat, nor for the pool. */
static __always_inline int leave_if_for_nat(struct xdp_md *ctx, const struct conf *conf, u32 transport,
					    struct packet *pkt)
{
	const struct nat_conf *nat = find_nat_conf();
	const struct service *found;

	if (!nat)
		return XDP_PASS; /* never */
	pkt->service = 0;
	if (!is_in_pool(pkt)) {
		found = find_service(pkt);
		if (!found || !(found->flags & SERVICE_NAT))
			return pass_no_service(pkt);
		pkt->service = found->slot;
	}
	FORGET(conf, pkt->service);
	if (pkt->fragment)
		return drop(ctx, conf, pkt->service ?: nat->table, DROP_NAT_FRAGMENT, pkt);
	if (is_foreign_hop(pkt))
		return pass_no_service(pkt);
	return leave_parsed(pkt, transport);
}

/*
 * A packet to the pool or to a service of mode nat; `transport` is the offset of its TCP or UDP header in the
 * frame, of an ICMP error that of the ports that it quotes. Returns the XDP verdict, or NOT_PLAIN.
 */
static __always_inline int handle_nat(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
				      u32 transport, struct packet *pkt)
{
	const struct nat_conf *nat = find_nat_conf();
	struct skipped skipped = {};
	struct nat_flow flow = {};
	struct service service;
	struct node *next = NULL;
	enum counter event;
	const struct row *row;
	struct stats *s;
	int verdict = XDP_DROP;
	u32 table, slot;
	u64 found;
	bool opens, moving;

	if (!nat)
		return XDP_PASS; /* never */
	moving = nat->flags & NAT_MOVING;
	service = nat_service(nat);
	find_flow(conf, nat, &service, pkt, &flow);
	if (flow.reply || pkt->icmp_error)
		pkt->opens = false;
	opens = pkt->opens;
	slot = flow.slot;
	flow.slot = NO_SLOT;
	FORGET_NOW(conf, slot);
	FORGET_NOW(conf, opens);
	forget_all(conf, pkt, &flow);

	table = service.slot + active_bank(conf) * SLOTS;
	row = find_row(table, flow.r);
	event = row ? FORWARD_FIRST : DROP_NO_MEMBER;
	if (row && !owns_row(conf, &service, flow.r, row, pkt))
		next = owner_for_outsider(conf, &service, row, pkt);
	if (row && !next) {
		found = flow.reply ? find_by_endpoint(slot, pkt)
				   : find_client_session(conf, nat, &service, flow.hash, pkt);
		FORGET(conf, found);
		flow.slot = found;
		if (flow.slot != NO_SLOT && pkt->opens && pkt->protocol == IPPROTO_TCP)
			flow.slot = reopen(nat, found);
		if (flow.slot == NO_SLOT) {
			if (pkt->protocol == IPPROTO_UDP && opens && is_pulled(flow.r))
				pkt->opens = false; /* another node may have it */
			event = pick(ctx, conf, &service, table, flow.r, row, pkt, &next, &skipped);
		}
	}
	forget_all(conf, pkt, &flow);
	FORGET_NOW(conf, opens);
	FORGET_NOW(conf, event);
	FORGET(conf, skipped.no_mac);
	FORGET(conf, skipped.silent);
	FORGET(conf, skipped.narrow);
	if (pkt->plain && next && is_too_big(&service, next, pkt))
		return NOT_PLAIN;
	if (next || is_drop(event)) {
		s = stats_of(flow.counted);
		if (!s)
			return XDP_PASS; /* never */
		return finish(ctx, conf, uplink, &service, next, &skipped, pkt, flow.hash, flow.counted, s, event);
	}
	if (row && flow.slot == NO_SLOT) {
		event = reject(&flow);
		if (opens && is_last_hop(ctx, pkt))
			event = DROP_NAT_TTL;
		else if (opens && !moving)
			flow.slot = make_session(conf, nat, flow.hash, flow.counted,
						 row->node[0] == conf->self && !is_pulled(flow.r), pkt, &event);
	}
	forget_all(conf, pkt, &flow);
	if (flow.slot != NO_SLOT)
		verdict = pass_on(ctx, uplink, nat, &flow, transport, pkt, &event);
	else if (event == DROP_NAT_NO_SESSION && !moving && pkt->protocol == IPPROTO_TCP && !is_error(pkt))
		verdict = pkt->plain ? NOT_PLAIN : reply_reset(ctx, uplink, nat, transport, pkt, &event);
	if (pkt->plain && verdict == NOT_PLAIN)
		return verdict;
	FORGET(conf, flow.counted);
	FORGET(conf, event);
	return end(ctx, conf, pkt, flow.counted, event, verdict);
}
#endif
