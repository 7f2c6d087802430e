/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What to do with a packet of a service: deliver it here, forward it to a node, or drop it. Reference implementation:
 * bpf/reference/pick.py.
 *
 * A row's chain names the nodes to try: its owner, then those that owned it or would own it. Nodes may disagree about
 * chains while a change spreads, so a packet carries the number of its forwards (hop), and each node that it reaches
 * first looks for a socket of its own. Nodes whose data path does not answer this one are silent: they stay in the
 * chain, and every packet passes over them. The rule, with p = the number of nodes before this one in the chain that
 * are not silent (a node outside the chain has a p only if all of the chain are silent: 0):
 *
 *  1. A packet that opens a flow is delivered by the owner, by a node that is up and has p == 0 or that the packet was
 *     forwarded to once, and by any node that it was forwarded to twice or more.
 *  2. A packet that has a socket here is delivered. Only nodes that have a p look for one, and nodes that the packet
 *     was forwarded to.
 *  3. Straight from the router, it goes to the owner.
 *  4. Otherwise it goes on down the chain. It goes to the place after this node's only if this chain explains how it
 *     came: hop and sender show that the places before are tried. Otherwise the sender has another table, and no place
 *     is known to be tried: it goes to place 0. It never goes back to the sender, nor to this node itself.
 *  5. No node is left to try: the kernel answers. But if the row has just changed, the packet is dropped, and TCP sends
 *     it again when the tables agree. If a node of the chain fell silent a short time ago, it may come back with the
 *     connection: a packet that opens a flow goes to the kernel, any other is dropped. The same holds if it is silent
 *     only for other nodes (doubted): these may have led the packet past it. A change may also be known to the nodes
 *     that led the packet here, and not here yet: so a packet that is forwarded again takes along whether one of their
 *     rows has just changed, and is dropped too.
 *  6. A tunnel that cannot carry 1,280 bytes of IPv6 takes nothing that opens an IPv6 flow, and no packet that is too
 *     large for it: the node is skipped. If no other is left, this node takes what opens a flow; so at such a node any
 *     IPv6 packet may have a socket, even if the node is not in the chain. What is too large for all is dropped: no
 *     error may name less than 1,280.
 *  7. Forwarded HOP_MAX times, it went in a circle between tables that disagree, so it is dropped. If they agree, it
 *     has met all nodes of a chain by then: one that enters at the second of eight reaches the last with hop HOP_MAX.
 *
 * A packet of NAT (nat.h) that comes here has no session here, which is to it what a socket is to others.
 *
 * If 4 trusted the hop alone and 7 let the kernel answer, a node that joins while another drains would reset
 * connections: walked over all single changes of 6 nodes, each with the old table or the new, 948 of 370,320 packets
 * for an old owner met a RST; with this rule 30 do. It does not cost more forwards.
 */
#pragma once

#include "chain.h"
#include "grace.h"
#include "lb.h"
#include "maps.h"
#include "packet.h"
#include "service.h"
#include "socket.h"
#include "verifier.h"

static __always_inline bool is_sender(const struct node *node, const struct packet *pkt)
{
	return (pkt->prev_family == 6 ? node_id6(node->address6) : node->tag) == pkt->prev;
}

/* Whether a node before that place in the chain forwarded the packet to this one. */
static __always_inline bool is_sender_before(const struct row *row, u32 place, const struct packet *pkt)
{
	struct node *node;
	u32 k, index;

#pragma clang loop unroll(disable)
	for (k = 0; k < CHAIN - 1; k++) {
		index = row->node[k];
		node = k < place ? nodes.lookup(&index) : NULL;
		if (node && is_sender(node, pkt))
			return true;
	}
	return false;
}

/*
 * Return this node's place in the chain without the silent nodes. If all nodes of the chain are silent, a node outside
 * it acts as the owner.
 */
static __always_inline u32 place_among_live(const struct conf *conf, const struct row *row, u32 place)
{
	u32 live = 0, k, index;
	struct node *node;

	if (!(conf->flags & CONF_SILENT) || !row->node[0])
		return place;
#pragma unroll
	for (k = 0; k < CHAIN; k++) {
		index = row->node[k];
		node = k < place && index ? nodes.lookup(&index) : NULL;
		if (node && !(node->flags & NODE_SILENT))
			live++;
	}
	return place == ABSENT && live ? ABSENT : live;
}

/* Whether a node of the chain fell silent, here or elsewhere, so recently that its packets are dropped, not reset. */
static __always_inline bool is_silent_node_awaited(const struct conf *conf, const struct row *row)
{
	struct node *node;
	u32 k, index;
	u64 now;

	if (!(conf->flags & CONF_SILENT))
		return false;
	now = bpf_ktime_get_coarse_ns();
#pragma unroll
	for (k = 0; k < CHAIN; k++) {
		index = row->node[k];
		node = nodes.lookup(&index);
		if (node && node->drop_until > now)
			return true;
	}
	return false;
}

/* Return the first place of the chain to try. At the owner it may be 0, which is the owner itself. */
static __always_inline u32 next_place(const struct row *row, u32 place, u32 live_place, const struct packet *pkt)
{
	if (place != ABSENT && live_place && live_place < pkt->hop && is_sender_before(row, place, pkt))
		return place + 1;
	return 0;
}

/* By MAC only if no router is in between; by a tunnel only if this node too has an address of its outer family. */
static __always_inline bool is_reachable(const struct conf *conf, const struct service *service,
					 const struct node *node)
{
	if ((node->flags & (NODE_HAS_MAC | NODE_SILENT)) != NODE_HAS_MAC)
		return false;
	if (service->forward == FORWARD_BY_L2)
		return node->flags & NODE_ON_LINK;
	return conf->flags & (node->flags & NODE_OUTER_6 ? CONF_OUTER_6 : CONF_OUTER_4);
}

/*
 * Return the room, without the outer IP header, that a tunnel needs for the packet; 0: any will do. Over IPv6 every
 * path carries 1,280 bytes (RFC 8200 section 5), and senders do not go below that (RFC 8201 section 4). What opens a
 * flow needs as much, so that the flow's later packets fit; other packets may be smaller.
 */
static __always_inline u32 room_needed(const struct conf *conf, const struct service *service, const struct packet *pkt)
{
	u32 need;

	if (!IPV6 || !(conf->flags & CONF_NARROW) || pkt->family != 6 || service->forward == FORWARD_BY_L2)
		return 0;
	need = pkt->opens || pkt->length > IPV6_MTU_MIN ? IPV6_MTU_MIN : pkt->length;
	return service->forward == FORWARD_BY_GUE ? need + sizeof(struct udphdr) : need;
}

static __always_inline bool is_too_narrow(const struct node *node, u32 need)
{
	return IPV6 && node->mtu < need + (node->flags & NODE_OUTER_6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
}

/* Whether this node may have taken the flow because tunnels are too narrow. */
static __always_inline bool may_have_narrow_flow(const struct conf *conf, const struct packet *pkt)
{
	return IPV6 && conf->flags & CONF_NARROW && pkt->family == 6;
}

/* How many nodes of the chain were skipped, by the reason. */
struct skipped {
	u32 no_mac, silent, narrow;
};

/* Return the first node from that place on that is not this one, did not send the packet, and is reachable. */
static __always_inline struct node *next_node(const struct conf *conf, const struct service *service,
					      const struct row *row, u32 place, const struct packet *pkt,
					      struct skipped *skipped)
{
	u32 need = room_needed(conf, service, pkt), index, k;
	struct node *node;

	/* The verifier distinguishes numbers that it knows: 165 combinations of three counts. */
	FORGET(conf, skipped->no_mac);
	FORGET(conf, skipped->silent);
	FORGET(conf, skipped->narrow);
	FORGET(conf, need);
#pragma unroll
	for (k = 0; k < CHAIN; k++) {
		if (k < place)
			continue;
		index = row->node[k];
		if (!index)
			break;
		if (index == conf->self)
			continue;
		node = nodes.lookup(&index);
		if (!node)
			break;
		if (pkt->hop && is_sender(node, pkt))
			continue;
		if (is_reachable(conf, service, node)) {
			if (!is_too_narrow(node, need))
				return node;
			skipped->narrow++;
			continue;
		}
		if (node->flags & NODE_SILENT)
			skipped->silent++;
		else
			skipped->no_mac++;
	}
	return NULL;
}

/*
 * The shortcut for most packets of a large cluster: straight from the router to a node that is not in the chain. Return
 * the owner; NULL if the packet was forwarded, or the owner cannot be reached: then the whole rule decides.
 */
static __always_inline struct node *owner_for_outsider(const struct conf *conf, const struct service *service,
						       const struct row *row, const struct packet *pkt)
{
	u32 first = row->node[0];
	struct node *owner;

	if (pkt->hop || !first)
		return NULL;
	owner = nodes.lookup(&first);
	if (!owner || !is_reachable(conf, service, owner))
		return NULL;
	return may_have_narrow_flow(conf, pkt) && is_too_narrow(owner, room_needed(conf, service, pkt)) ? NULL : owner;
}

/* Whether a node that does not own the row takes what opens a flow. */
static __always_inline bool opens_here(const struct service *service, u32 live_place, const struct packet *pkt)
{
	return pkt->opens && (pkt->hop >= 2 || (service->up && (live_place == 0 || pkt->hop == 1)));
}

static __always_inline enum counter deliver_new_flow(u32 live_place, const struct packet *pkt)
{
	if (pkt->fragment)
		return DELIVER_FRAGMENT;
	if (pkt->protocol == IPPROTO_UDP)
		return DELIVER_UDP;
	return live_place == 0 ? DELIVER_OWNER : DELIVER_FORWARDED_SYN;
}

/*
 * Return what happens to a packet whose row is `row`, number `r` of `table`; to forward it, set `next`. Nothing is
 * counted or charged yet.
 */
static __always_inline enum counter pick(struct xdp_md *ctx, const struct conf *conf, const struct service *service,
					 u32 table, u32 r, const struct row *row, struct packet *pkt,
					 struct node **next, struct skipped *skipped)
{
	u32 empty = !row->node[0], alone, place, live_place, other_r = 0;
	const struct row *other = NULL;
	enum counter found;

	/* Before the socket, which could not change the answer: a flood of SYNs costs no lookups at the owner. */
	if (pkt->opens && row->node[0] == conf->self)
		return deliver_new_flow(0, pkt);

	if (uses_two_banks(conf, pkt)) {
		other_r = other_row(conf, service, r, pkt);
		other = find_row(other_table(table), other_r);
	}
	FORGET(conf, other_r);

	if (!pkt->plain && !pkt->nat && !is_in_row(row, conf->self) && !(other && is_in_row(other, conf->self))) {
		*next = owner_for_outsider(conf, service, row, pkt); /* plain and NAT packets have had their chance */
		if (*next)
			return FORWARD_FIRST;
	}
	if (other && !empty)
		row = join_rows(conf, row, other);
	place = place_of(row, conf->self);
	FORGET(conf, place);
	live_place = place_among_live(conf, row, place);
	FORGET(conf, live_place);
	alone = empty || (place == 0 && !row->node[1]);
	FORGET(conf, alone);

	if (opens_here(service, live_place, pkt))
		return deliver_new_flow(live_place, pkt);

	if (empty && service->flags & SERVICE_DROP_NO_MEMBER)
		return DROP_NO_MEMBER;

	/* With no node to forward to, a socket matters only against the drop in grace. */
	if (alone && (pkt->opens || !is_in_grace(conf, pkt, table, r, other_r)))
		return empty ? PASS_NO_MEMBER : DELIVER_ONLY_NODE;

	if (!pkt->nat && (!pkt->fragment || pkt->collects) &&
	    (alone || live_place != ABSENT || pkt->hop || may_have_narrow_flow(conf, pkt))) {
		found = find_socket(ctx, live_place, pkt);
		if (found != NO_SOCKET)
			return found;
	}

	if (pkt->hop >= HOP_MAX)
		return DROP_HOP_LIMIT;
	*next = next_node(conf, service, row, next_place(row, place, live_place, pkt), pkt, skipped);
	if (*next) {
		if (!pkt->hop)
			return FORWARD_FIRST;
		if (!pkt->opens && is_in_grace(conf, pkt, table, r, other_r))
			pkt->in_grace = HOP_IN_GRACE;
		return FORWARD_AGAIN;
	}
	if (skipped->narrow)
		return pkt->opens ? DELIVER_NARROW : DROP_TOO_BIG;
	if (is_silent_node_awaited(conf, row))
		return pkt->opens ? DELIVER_CHAIN_END : DROP_SILENT;
	return is_in_grace(conf, pkt, table, r, other_r) ? DROP_GRACE : DELIVER_CHAIN_END;
}
