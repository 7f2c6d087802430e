/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * NAT: services whose backends run nothing of ours. A client's packet goes to a backend from an address of the pool, so
 * that the answer comes back here.
 *
 * A packet's row names the nodes that may have its session, and the rule of pick.h leads it there: with "a session
 * here" in place of "a socket here". The row of a client's packet is that of its flow; the row of a backend's packet is
 * that of the endpoint it goes to, the upper bits of the session's slot: any node that a router chose finds the
 * owner. All services of mode nat share one table of rows, by their five-tuple.
 *
 * Straight from the router, only an owner looks for a session: other nodes of the chain may have copies, but the state
 * is followed in one place. While two epochs are in use, a session is looked for by the keys of both.
 *
 * Fragments are dropped. A session's rules are in session.h, track.h, new_session.h and translate.h.
 */
#pragma once

#include "handle.h"
#include "lb.h"
#include "nat_icmp.h"
#include "nat_layout.h"
#include "nat_mss.h"
#include "nat_pool.h"
#include "nat_reset.h"
#include "new_session.h"
#include "packet.h"
#include "pick.h"
#include "session.h"
#include "track.h"
#include "translate.h"
#include "verifier.h"

#if NAT
/* What decides about a packet, beside the packet. */
struct nat_flow {
	u32 r;       /* row */
	u32 hash;    /* of a client's packet its flow's */
	u32 slot;    /* of the session; NO_SLOT: none is here */
	u32 counted; /* whose counters it is counted in: its service's */
	u32 reply;   /* from a backend */
};

/* NAT's table as a service, for the rule of pick.h. */
static __always_inline struct service nat_service(const struct nat_conf *nat)
{
	struct service service = {
		.slot = nat->table,
		.up = nat->up,
		.forward = nat->forward,
		.flags = SERVICE_DROP_NO_MEMBER,
	};

	return service;
}

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

/* Whether other nodes may still hand over sessions of the row. */
static __always_inline bool is_pulled(u32 r)
{
	u64 *until = nat_pulls.lookup(&r);

	return until && *until && bpf_ktime_get_coarse_ns() < *until;
}

/* Whether this node owns the row of either epoch. */
static __always_inline bool owns_row(const struct conf *conf, const struct service *service, u32 r,
				     const struct row *row, const struct packet *pkt)
{
	u32 table = service->slot + active_bank(conf) * SLOTS;
	const struct row *other;

	if (row->node[0] == conf->self)
		return true;
	if (!uses_two_banks(conf, pkt))
		return false;
	other = find_row(other_table(table), other_row(conf, service, r, pkt));
	return other && other->node[0] == conf->self;
}

/* Find the session of a client's packet, by the key of new flows and then by the other one; as find_by_client(). */
static __always_inline u64 find_client_session(const struct conf *conf, const struct nat_conf *nat,
					       const struct service *service, u32 hash, const struct packet *pkt)
{
	u64 found;
	u32 i;

#pragma clang loop unroll(disable)
	for (i = 0; i < BANKS; i++) {
		found = find_by_client(nat, hash, pkt);
		FORGET(conf, found);
		if ((u32)found != NO_SLOT || !uses_two_banks(conf, pkt))
			return found;
		hash = flow_hash(conf->hash_key[active_bank(conf) ^ 1], service, pkt);
	}
	return NO_SLOT;
}

/*
 * A SYN meets a session of its flow: return its slot if it lives, else NO_SLOT; what its ends have closed is retired.
 * Since it was found it may have been freed, and another CPU may have made a session of another flow in its slot: then
 * the fingerprint is another one, and that session is left alone.
 */
static __always_inline u32 reopen(const struct nat_conf *nat, u64 found)
{
	u64 *tag = find_tag(found), now = tag ? *(volatile u64 *)tag : 0;
	u32 state = tag_state(now);

	if ((now ^ found) >> 48 || state == SESSION_BUSY)
		return NO_SLOT;
	if (state < SESSION_FIN)
		return found;
	retire(nat, found, now);
	return NO_SLOT;
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

/* Fill in the packet's row, and its slot if it is to the pool. */
static __always_inline void find_flow(const struct conf *conf, const struct nat_conf *nat,
				      const struct service *service, const struct packet *pkt, struct nat_flow *flow)
{
	flow->slot = NO_SLOT;
	flow->reply = !pkt->service;
	if (flow->reply) {
		flow->slot = slot_of_endpoint(nat, pkt);
		flow->r = flow->slot >> ((nat->bucket_bits & 15) + 3);
		flow->hash = mix(flow->slot);
		flow->counted = nat->table;
	} else {
		flow->hash = flow_hash(conf->hash_key[active_bank(conf)], service, pkt);
		flow->r = flow->hash & (NAT_ROWS - 1);
		flow->counted = pkt->service;
	}
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
	bool opens;

	if (!nat)
		return XDP_PASS; /* never */
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
		else if (opens)
			flow.slot = make_session(conf, nat, flow.hash, flow.counted,
						 row->node[0] == conf->self && !is_pulled(flow.r), pkt, &event);
	}
	forget_all(conf, pkt, &flow);
	if (flow.slot != NO_SLOT)
		verdict = pass_on(ctx, uplink, nat, &flow, transport, pkt, &event);
	else if (event == DROP_NAT_NO_SESSION && pkt->protocol == IPPROTO_TCP && !is_error(pkt))
		verdict = pkt->plain ? NOT_PLAIN : reply_reset(ctx, uplink, nat, transport, pkt, &event);
	if (pkt->plain && verdict == NOT_PLAIN)
		return verdict;
	FORGET(conf, flow.counted);
	FORGET(conf, event);
	return end(ctx, conf, pkt, flow.counted, event, verdict);
}
#endif
