/* SPDX-License-Identifier: GPL-2.0-only */
/* From a parsed packet to its verdict: service, row, decision, and what follows from it. Counts what happened. */
#pragma once

#include "decap.h"
#include "echo.h"
#include "flow.h"
#include "forward.h"
#include "nat_pool.h"
#include "lb.h"
#include "packet.h"
#include "pick.h"
#include "plain.h"
#include "ratelimit.h"
#include "sample.h"
#include "service.h"
#include "stats.h"
#include "verdict.h"
#include "verifier.h"

/* A packet without a flow to a VIP. */
static __always_inline int drop(struct xdp_md *ctx, const struct conf *conf, u32 slot, enum counter event,
				const struct packet *pkt)
{
	struct stats *s = stats_of(slot);

	if (s)
		count_any(s, event);
	sample_packet(ctx, conf, pkt, slot, event);
	return XDP_DROP;
}

/* Not for any service: pass to the kernel unmodified. */
static __always_inline int pass(enum counter event)
{
	struct stats *s = stats_of(0);

	if (s)
		count(s, event);
	return XDP_PASS;
}

/* No session has such a packet. */
static __always_inline int drop_to_pool(void)
{
	const struct nat_conf *nat = find_nat_conf();
	struct stats *s = nat ? stats_of(nat->table) : NULL;

	if (s)
		count(s, DROP_NAT_FOREIGN);
	return XDP_DROP;
}

/*
 * A tunnel without a packet for a service may hold an echo question. What is to the NAT pool never gets to the kernel.
 */
static __always_inline int pass_no_service(const struct packet *pkt)
{
	if (NAT && is_in_pool(pkt))
		return pkt->nat ? drop_to_pool() : FOR_NAT;
	if (pkt->plain && pkt->outer)
		return NOT_PLAIN;
	return pass(pkt->outer ? PASS_FOREIGN_TUNNEL : PASS_NO_SERVICE);
}

static __always_inline void count_arrival(struct stats *s, const struct packet *pkt)
{
	count(s, pkt->hop || pkt->was_forwarded ? RX_FORWARDED : RX);
	if (pkt->outer)
		count(s, RX_TUNNEL);
	if (pkt->icmp_error)
		count(s, RX_ICMP_ERROR);
}

/* Do what was decided and return the XDP verdict. `event` becomes another if forwarding fails. */
static __always_inline int act(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
			       const struct service *service, const struct node *next, struct packet *pkt, u32 hash,
			       enum counter *event)
{
	if (*event == FORWARD_AGAIN && !may_forward_again(conf, pkt))
		*event = DROP_RATE_LIMIT;
	if (is_drop(*event))
		return XDP_DROP;
	if (next)
		return forward(ctx, conf, uplink, service, next, pkt, hash, event);
	return pkt->outer && !decapsulate(ctx, pkt) ? XDP_DROP : XDP_PASS;
}

/* act() for most packets of a large cluster: from the router, to the owner. */
static __always_inline int forward_to_owner(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
					    const struct service *service, const struct node *owner, struct packet *pkt,
					    u32 hash, struct stats *s)
{
	enum counter event = FORWARD_FIRST;
	int verdict;

	if (is_too_big(service, owner, pkt))
		return NOT_PLAIN;
	count(s, RX);
	verdict = forward(ctx, conf, uplink, service, owner, pkt, hash, &event);
	count(s, event);
	return verdict;
}

/*
 * IPv4's protocol 0 is in no service's key, but a key with 0 means a VIP with any protocol: for IPv6, where protocol 0
 * is one that could not be parsed.
 */
static __always_inline bool has_no_service_key(const struct packet *pkt)
{
	return !pkt->protocol && pkt->family == 4;
}

/* Return what happens to a packet of a service by its flow's row; to forward it, set `next`. */
static __always_inline enum counter pick_by_row(struct xdp_md *ctx, const struct conf *conf,
						const struct service *service, u32 table, u32 r, const struct row *row,
						struct packet *pkt, struct node **next, struct skipped *skipped)
{
	if (row)
		return pick(ctx, conf, service, table, r, row, pkt, next, skipped);
	return service->flags & SERVICE_DROP_NO_MEMBER ? DROP_NO_MEMBER : PASS_NO_MEMBER;
}

/* Do what was decided of a packet, and count it. */
static __always_inline int finish(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
				  const struct service *service, const struct node *next, const struct skipped *skipped,
				  struct packet *pkt, u32 hash, u32 slot, struct stats *s, enum counter event)
{
	int verdict;

	count_arrival(s, pkt);
	/* One branch: behind three the verifier walks what follows eight times. */
	if (skipped->no_mac | skipped->silent | skipped->narrow) {
		s->count[SKIP_NO_MAC] += skipped->no_mac;
		s->count[SKIP_SILENT] += skipped->silent;
		s->count[SKIP_NARROW] += skipped->narrow;
	}
	verdict = act(ctx, conf, uplink, service, next, pkt, hash, &event);
	count_any(s, event);
	sample_packet(ctx, conf, pkt, slot, event);
	return verdict;
}

static __always_inline int handle_service(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
					  const struct service *service, struct packet *pkt, struct stats *s)
{
	u32 hash = flow_hash(conf->hash_key[active_bank(conf)], service, pkt), r = hash & (ROWS - 1);
	u32 table = service->slot + active_bank(conf) * SLOTS;
	struct skipped skipped = {};
	struct row *row = find_row(table, r);
	struct node *next = NULL;
	enum counter event;

	if (row && pkt->plain && !pkt->outer && !is_in_row(row, conf->self)) {
		next = owner_for_outsider(conf, service, row, pkt);
		if (next)
			return forward_to_owner(ctx, conf, uplink, service, next, pkt, hash, s);
	}
	event = pick_by_row(ctx, conf, service, table, r, row, pkt, &next, &skipped);
	FORGET(conf, event);
	FORGET(conf, pkt->in_grace);
	FORGET(conf, skipped.no_mac);
	FORGET(conf, skipped.silent);
	FORGET(conf, skipped.narrow);
	if (pkt->plain && next && is_too_big(service, next, pkt))
		return NOT_PLAIN;
	return finish(ctx, conf, uplink, service, next, &skipped, pkt, hash, service->slot, s, event);
}

static __always_inline int handle_flow(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
				       struct packet *pkt)
{
	struct service *found = find_service(pkt), service;
	struct stats *s;

	if (!found ||
	    (pkt->fragment ? has_no_service_key(pkt) : found->flags & SERVICE_PORTS_ONLY || is_foreign_hop(pkt)))
		return pass_no_service(pkt);
	if (NAT && found->flags & SERVICE_NAT) {
		pkt->service = found->slot;
		return FOR_NAT;
	}
	service = *found; /* a copy: else the verifier walks the rest once for each map that it may be from */
	s = stats_of(service.slot);
	if (!s)
		return XDP_PASS;
	if (pkt->fragment && !(service.flags & SERVICE_FRAGMENTS))
		return FOR_COLLECTOR;
	return handle_service(ctx, conf, uplink, &service, pkt, s);
}

static __always_inline int handle_echo(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
				       const struct packet *pkt)
{
	struct stats *s = stats_of(0);

	if (is_foreign_hop(pkt) || !reply_echo(ctx, conf, uplink, pkt))
		return pass_no_service(pkt);
	if (s)
		count(s, REPLY_ECHO);
	return hairpin(ctx, uplink);
}

static __always_inline enum counter drop_reason(enum packet_kind kind)
{
	switch (kind) {
	case KIND_MALFORMED:
		return DROP_MALFORMED;
	case KIND_IPV6_HEADERS:
		return DROP_IPV6_HEADERS;
	case KIND_LAND:
		return DROP_LAND;
	case KIND_MARTIAN:
		return DROP_MARTIAN;
	case KIND_ICMP_FRAGMENT:
		return DROP_FRAGMENT;
	case KIND_OTHER_PROTOCOL:
		return DROP_OTHER_PROTOCOL;
	default:
		return DROP_DENIED;
	}
}

/* Without a flow: pass what is not for a service, drop what is to a VIP. */
static __always_inline int handle_no_flow(struct xdp_md *ctx, const struct conf *conf, enum packet_kind kind,
					  struct packet *pkt)
{
	struct service *service = NULL;
	u32 slot;

	if (kind == KIND_OTHER_VLAN)
		return pass(PASS_OTHER_VLAN);
	if (NAT && kind == KIND_POOL)
		return FOR_NAT;
	if (kind == KIND_FOREIGN_TUNNEL)
		return pass(PASS_FOREIGN_TUNNEL);
	if (kind != KIND_NO_SERVICE && !(kind == KIND_OTHER_PROTOCOL && !(conf->flags & CONF_DROP_OTHER_PROTOCOLS)) &&
	    !(kind == KIND_MALFORMED && has_no_service_key(pkt)))
		service = lookup_service(pkt, 0, kind == KIND_MALFORMED ? pkt->protocol : 0);
	if (!service)
		return pass_no_service(pkt);
	slot = counted_slot(service);
	FORGET(conf, slot);
	return drop(ctx, conf, slot, drop_reason(kind), pkt);
}
