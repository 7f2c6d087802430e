/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fragments of services whose flows need ports. Only the first fragment of a packet has the ports, and a router may
 * spread a packet's fragments over several nodes. So all fragments from one client to one VIP first go to one node,
 * which collects them: it learns the ports from the first fragment and sends the others after it, as the next-hop rule
 * of the whole flow says (pick.h).
 *
 * The collecting node is the first that can be reached in the row of the two addresses, in the table of the protocol's
 * service with the lowest port. A fragment that comes from the router goes there with hop COLLECT_HOP; whoever gets it
 * so collects it, whatever its own table says, so nothing goes round in a circle. From there the fragment goes on as
 * if it came from the router: with hop 1, 2, ... Each node on this path learns the ports too. If one does not know
 * them, it delivers the fragment: the sender knew them.
 *
 * A fragment that comes before its first is not dropped at once: it goes to another node and back, twice at most, with
 * a hop that is one higher each time. A whole round takes longer than the other fragments' detour by another ingress.
 * This is rate-limited. A node that knows the ports sends it on from there.
 *
 * Only fragments pay for any of this. What is kept is the ports of the packets that were fragmented last.
 */
#pragma once

#include "cursor.h"
#include "flow.h"
#include "forward.h"
#include "handle.h"
#include "lb.h"
#include "maps.h"
#include "packet.h"
#include "pick.h"
#include "ratelimit.h"
#include "service.h"
#include "stats.h"
#include "verifier.h"

#define FIRST_LIFE_NS 1000000000 /* a fast client uses an ID again within seconds (RFC 6864 section 3) */
#define DELAY_COST_NS 50000
#define DELAY_BURST_NS 50000000

/* Fill in which packet the fragment is of; the cursor is behind its IP header, or IPv6's fragment header. */
static __always_inline bool fill_fragment_key(struct xdp_md *ctx, const struct cursor *c, const struct packet *pkt,
					      struct fragment_key *key)
{
	const void *data = frame_start(ctx), *end = frame_end(ctx);
	const struct iphdr *ip = data + ((pkt->l2 + pkt->outer) & 0x7f);
	const struct fragment_header *header = data + ((c->at - data - sizeof(*header)) & HEADERS_END);

	__builtin_memcpy(key->client, pkt->client, sizeof(key->client));
	__builtin_memcpy(key->vip, pkt->vip, sizeof(key->vip));
	key->protocol = pkt->protocol;
	key->family = pkt->family;
	if (pkt->family == 4) {
		if ((void *)(ip + 1) > end)
			return false;
		key->id = ip->id;
		return true;
	}
	if (!IPV6 || (void *)(header + 1) > end)
		return false;
	key->id = header->id;
	return true;
}

/* Read the ports of a first fragment at the cursor; return false unless its whole transport header is in it. */
static __always_inline bool read_first(struct xdp_md *ctx, struct cursor *c, const struct packet *pkt,
				       struct first_fragment *first)
{
	u32 size = pkt->protocol == IPPROTO_TCP ? sizeof(struct tcphdr) : sizeof(struct udphdr);
	u64 at = c->at - frame_start(ctx) - pkt->l2 - pkt->outer;
	struct tcphdr *tcp = take(c, sizeof(struct udphdr));

	if (!tcp || at + size > pkt->length)
		return false;
	first->until_ns = bpf_ktime_get_coarse_ns() + FIRST_LIFE_NS;
	first->client_port = tcp->source; /* UDP has its ports there too */
	first->vip_port = tcp->dest;
	first->opens = true;
	if (pkt->protocol != IPPROTO_TCP)
		return true;
	if ((void *)(tcp + 1) > c->end)
		return false;
	first->opens = tcp->syn && !tcp->ack;
	return true;
}

/* Fill in what the first fragment of a later one's packet showed. Return false if it did not come, or long ago. */
static __always_inline bool find_first(struct fragment_key *key, struct first_fragment *first)
{
	struct first_fragment *found = first_fragments.lookup(key);

	if (!found || bpf_ktime_get_coarse_ns() > found->until_ns)
		return false;
	*first = *found;
	return true;
}

/* Whether no node has found the ports: the fragment comes from the router, or is to be collected. */
static __always_inline bool is_uncollected(const struct packet *pkt)
{
	return !pkt->hop || pkt->hop > HOP_MAX;
}

/* Return the node that collects; NULL: this one, or no other can be reached. */
static __always_inline struct node *collecting_node(const struct conf *conf, const struct service *service,
						    const struct row *row, const struct packet *pkt)
{
	u32 need = room_needed(conf, service, pkt), index, k;
	struct node *node;

	FORGET(conf, need);
#pragma clang loop unroll(disable)
	for (k = 0; k < CHAIN; k++) {
		index = row->node[k];
		node = index && index != conf->self ? nodes.lookup(&index) : NULL;
		if (!node)
			return NULL;
		if (is_reachable(conf, service, node) && !is_too_narrow(node, need))
			return node;
	}
	return NULL;
}

/* Return where the fragment waits: any other node, and from there the sender. NULL: no such node can be reached. */
static __always_inline struct node *waiting_node(const struct conf *conf, const struct service *service,
						 const struct row *row, const struct packet *pkt)
{
	u32 back = pkt->hop && (pkt->hop - COLLECT_HOP) & 1;
	struct node *node;
	u32 index, k;

	FORGET(conf, back);
#pragma clang loop unroll(disable)
	for (k = 0; k < CHAIN; k++) {
		index = row->node[k];
		node = index && index != conf->self ? nodes.lookup(&index) : NULL;
		if (node && is_reachable(conf, service, node) && (!back || is_sender(node, pkt)))
			return node;
	}
	return NULL;
}

/* Whether this node is the only one of the row: then a fragment has nowhere to go. */
static __always_inline bool is_alone(const struct conf *conf, const struct row *row)
{
	return row->node[0] == conf->self && !row->node[1];
}

/*
 * Return what happens to a fragment of unknown ports, or one that another node collects; to forward it, set `next`.
 * RX: its ports are known, and the next-hop rule decides.
 */
static __always_inline enum counter collect(const struct conf *conf, const struct service *service,
					    const struct row *row, bool known, struct packet *pkt, struct node **next)
{
	if (!is_uncollected(pkt))
		return known ? RX : DELIVER_FRAGMENT;
	if (!pkt->hop && row) {
		*next = collecting_node(conf, service, row, pkt);
		pkt->hop_offset = COLLECT_HOP - 1;
		if (*next)
			return FORWARD_FRAGMENT;
		pkt->hop_offset = COLLECT_HOP;
	}
	if (known)
		return RX;
	if (!row || pkt->hop >= COLLECT_HOP_MAX)
		return DROP_FRAGMENT;
	if (is_alone(conf, row))
		return DELIVER_FRAGMENT;
	if (!is_within_limit(LIMIT_DELAY, DELAY_COST_NS, DELAY_BURST_NS))
		return DROP_FRAGMENT;
	*next = waiting_node(conf, service, row, pkt);
	return *next ? FORWARD_DELAYED : DROP_FRAGMENT;
}

/*
 * From now on the fragment is a packet of the flow that its first fragment showed. Fill in the flow's service; return
 * false if none has the port.
 */
static __always_inline bool become_flow(const struct conf *conf, const struct first_fragment *first, struct packet *pkt,
					struct service *service)
{
	struct service *found;

	if (is_uncollected(pkt)) {
		pkt->was_forwarded = pkt->hop;
		pkt->hop = 0;
	}
	pkt->hop_offset = 0;
	pkt->client_port = first->client_port;
	pkt->vip_port = first->vip_port;
	pkt->opens = first->opens;
	FORGET(conf, pkt->was_forwarded);
	FORGET(conf, pkt->hop);
	forget_packet(conf, pkt);
	found = find_service(pkt);
	if (!found || found->flags & (SERVICE_PORTS_ONLY | (NAT ? SERVICE_NAT : 0)))
		return false;
	*service = *found;
	return true;
}

/* Learn the fragment's ports: from itself, or from the first one. Return RX, or why it is dropped. */
static __always_inline enum counter learn(struct xdp_md *ctx, struct cursor *c, const struct packet *pkt,
					  struct fragment_key *key, struct first_fragment *first, bool *known)
{
	if (!fill_fragment_key(ctx, c, pkt, key))
		return DROP_MALFORMED; /* never */
	*known = pkt->fragment == FIRST_FRAGMENT;
	if (*known)
		return read_first(ctx, c, pkt, first) ? RX : DROP_MALFORMED;
	*known = find_first(key, first);
	return RX;
}

static __always_inline u32 table_of(const struct conf *conf, const struct service *service)
{
	return service->slot + active_bank(conf) * SLOTS;
}

static __always_inline int handle_fragment(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
					   struct cursor *c, struct packet *pkt)
{
	struct service *found = lookup_service(pkt, 0, pkt->protocol), service;
	const u64 *hash_key = conf->hash_key[active_bank(conf)];
	struct first_fragment first = {};
	struct fragment_key key = {};
	struct skipped skipped = {};
	struct node *next = NULL;
	bool known = false;
	u32 hash, slot, r;
	enum counter event;
	struct stats *s;

	if (!found)
		return pass_no_service(pkt); /* it is gone since the general program found it */
	service = *found;
	service.affinity = AFFINITY_TWO_TUPLE;
	slot = counted_slot(&service);
	FORGET(conf, slot);
	hash = flow_hash(hash_key, &service, pkt);
	event = learn(ctx, c, pkt, &key, &first, &known);
	FORGET(conf, event);
	FORGET(conf, first.opens);
	FORGET(conf, pkt->hop);
	forget_packet(conf, pkt);
	if (event == RX)
		event = collect(conf, &service, find_row(table_of(conf, &service), hash & (ROWS - 1)), known, pkt,
				&next);
	FORGET(conf, event);
	FORGET(conf, pkt->hop_offset);
	FORGET(conf, pkt->hop);
	forget_packet(conf, pkt);
	if (event == RX) {
		if (pkt->fragment == FIRST_FRAGMENT)
			first_fragments.update(&key, &first);
		if (!become_flow(conf, &first, pkt, &service))
			return pass_no_service(pkt);
		next = NULL; /* as it is; the verifier does not know */
		slot = service.slot;
		hash = flow_hash(hash_key, &service, pkt);
		r = hash & (ROWS - 1);
		forget_packet(conf, pkt);
		event = pick_by_row(ctx, conf, &service, table_of(conf, &service), r,
				    find_row(table_of(conf, &service), r), pkt, &next, &skipped);
		FORGET(conf, event);
		FORGET(conf, skipped.no_mac);
		FORGET(conf, skipped.silent);
		FORGET(conf, skipped.narrow);
	}
	s = stats_of(slot);
	return s ? finish(ctx, conf, uplink, &service, next, &skipped, pkt, hash, slot, s, event) : XDP_PASS;
}
