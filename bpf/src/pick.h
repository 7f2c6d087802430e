/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What to do with a packet of a service: deliver it here, forward it to a node, or drop it. Reference implementation:
 * bpf/reference/pick.py.
 *
 * A row's chain names the nodes to try: its owner, then those that owned it or would own it. Nodes may disagree about
 * chains while a change spreads, so a packet carries the number of its forwards (hop), and each node that it reaches
 * first looks for a socket of its own. The rule, with p = this node's place in the chain:
 *
 *  1. A packet that opens a flow is delivered by the owner (p == 0), by a node that it was forwarded to once and that
 *     is up, and by any node that it was forwarded to twice or more.
 *  2. A packet that has a socket here is delivered. Only nodes of the chain look for one, and nodes that the packet was
 *     forwarded to.
 *  3. Straight from the router, it goes to the owner.
 *  4. Otherwise it goes on down the chain. It goes to place p + 1 only if this chain explains how it came: this node
 *     is the owner, or hop and sender show that the places before are tried. Otherwise the sender has another table,
 *     and no place is known to be tried: it goes to place 0. It never goes back to the sender, nor to this node itself.
 *  5. No node is left to try: the kernel answers, unless the row has just changed; then the packet is dropped and TCP
 *     sends it again, when the tables agree.
 *  6. Forwarded more than CHAIN times, it went in a circle between tables that disagree, so it is dropped.
 *
 * A node may use the rows of two epochs, so that a switch from one to the other moves no connections. Then the chain
 * is joined from both, in the order of conf.order: the first four places of the row of new flows and the first three of
 * the other, each node at its first place. Either they alternate, so that the owners of both epochs come first: walked
 * over every mixture of nodes that switched and nodes that did not, and all pairs of chains of up to 5 nodes, each
 * owner's packets reach it within two forwards, while one row after the other misdirected some. Or the other's come
 * last: when some nodes know only the one row, places must mean the same on all.
 *
 * If 4 trusted the hop alone and 6 let the kernel answer, a node that joins while another drains would reset
 * connections: walked over all single changes of 6 nodes, each with the old table or the new, 948 of 370,320 packets
 * for an old owner met a RST; with this rule 30 do. It does not cost more forwards.
 */
#pragma once

#include "cursor.h"
#include "flow.h"
#include "lb.h"
#include "maps.h"
#include "packet.h"
#include "ratelimit.h"
#include "service.h"
#include "stats.h"
#include "verifier.h"

#define TCP_ESTABLISHED 1
#define TCP_TIME_WAIT 6
#define TCP_LISTEN 10

#define ABSENT CHAIN       /* the place of a node that is not in the chain */
#define NO_SOCKET COUNTERS /* what find_socket() returns for none */

static __always_inline u32 place_of(const struct row *row, u16 node)
{
	u32 place;

#pragma unroll
	for (place = 0; place < CHAIN; place++)
		if (row->node[place] == node)
			return place;
	return ABSENT;
}

/* Whether an ACK answers one of the listener's SYN cookies. The kernel denies it at once if it sent none recently. */
static __always_inline bool answers_cookie(struct xdp_md *ctx, struct bpf_sock *sk, const struct packet *pkt)
{
	void *data = frame_start(ctx), *end = frame_end(ctx);
	void *ip = data + ((pkt->l2 + pkt->outer) & 0x7f);
	struct tcphdr *tcp = data + (pkt->tcp & HEADERS_END);
	u32 header = pkt->family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);

	if (!pkt->tcp || (void *)(tcp + 1) > end || ip + sizeof(struct ipv6hdr) > end)
		return false;
	return tcp->ack && !tcp->syn && !tcp->rst && !bpf_tcp_check_syncookie(sk, ip, header, tcp, sizeof(*tcp));
}

/*
 * Whether the local TCP socket is the packet's. TIME-WAIT holds no connection, so it must neither catch a new one
 * (SYN), nor hide the live one that a client which reuses its port has at the owner (straight from the router).
 */
static __always_inline enum counter match_tcp_socket(struct xdp_md *ctx, struct bpf_sock *sk, u32 place,
						     const struct packet *pkt)
{
	switch (sk->state) {
	case TCP_LISTEN:
		return place != ABSENT && answers_cookie(ctx, sk, pkt) ? DELIVER_SYN_COOKIE : NO_SOCKET;
	case TCP_TIME_WAIT:
		return !pkt->opens && (pkt->hop || place == 0) ? DELIVER_TIME_WAIT : NO_SOCKET;
	default:
		return DELIVER_SOCKET;
	}
}

/* Fill in the packet's flow and return the size, by which the kernel distinguishes IPv4 and IPv6. */
static __always_inline u32 fill_tuple(struct bpf_sock_tuple *tuple, const struct packet *pkt)
{
	if (!IPV6 || pkt->family == 4) {
		tuple->ipv4.saddr = pkt->client[0];
		tuple->ipv4.daddr = pkt->vip[0];
		tuple->ipv4.sport = pkt->client_port;
		tuple->ipv4.dport = pkt->vip_port;
		return sizeof(tuple->ipv4);
	}
	__builtin_memcpy(tuple->ipv6.saddr, pkt->client, sizeof(pkt->client));
	__builtin_memcpy(tuple->ipv6.daddr, pkt->vip, sizeof(pkt->vip));
	tuple->ipv6.sport = pkt->client_port;
	tuple->ipv6.dport = pkt->vip_port;
	return sizeof(tuple->ipv6);
}

static __always_inline enum counter find_socket(struct xdp_md *ctx, u32 place, const struct packet *pkt)
{
	struct bpf_sock_tuple tuple = {};
	u32 size = fill_tuple(&tuple, pkt);
	enum counter found = NO_SOCKET;
	struct bpf_sock *sk;

	if (pkt->protocol == IPPROTO_TCP) {
		sk = bpf_skc_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
		if (sk) {
			found = match_tcp_socket(ctx, sk, place, pkt);
			bpf_sk_release(sk);
		}
	} else {
		sk = bpf_sk_lookup_udp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
		if (sk) {
			if (sk->state == TCP_ESTABLISHED) /* connected to this very client */
				found = DELIVER_SOCKET;
			bpf_sk_release(sk);
		}
	}
	return found;
}

static __always_inline bool is_row_in_grace(u32 table, u32 r)
{
	void *all = grace.lookup(&table);
	u64 *until = all ? bpf_map_lookup_elem(all, &r) : NULL;

	return until && *until && bpf_ktime_get_coarse_ns() < *until;
}

/* Return the packet's row in the other bank's table. */
static __always_inline u32 other_row(const struct conf *conf, const struct service *service, const struct packet *pkt)
{
	return flow_hash(conf->hash_key[active_bank(conf) ^ 1], service, pkt) & (ROWS - 1);
}

static __always_inline bool is_in_grace(const struct conf *conf, u32 table, u32 r, u32 other_r)
{
	return is_row_in_grace(table, r) || (conf->two_banks && is_row_in_grace(other_table(table), other_r));
}

/* How many places of each of two rows are in the joined chain. */
#define PLACES_OF_FIRST 4
#define PLACES_OF_OTHER 3

/* What the other bank's row names: this node, others. */
enum { NAMES_SELF = 1, NAMES_OTHERS = 2 };

static __always_inline u32 names_in_other_row(const struct conf *conf, u32 table, u32 r)
{
	struct row *row = find_row(other_table(table), r);
	u32 named = 0, k;

	if (!row)
		return 0;
#pragma unroll
	for (k = 0; k < PLACES_OF_OTHER; k++) {
		if (row->node[k])
			named |= row->node[k] == conf->self ? NAMES_SELF : NAMES_OTHERS;
		FORGET(conf, named);
	}
	return named;
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
	u32 zero = 0, length = 0, k;
	struct row *all = joint.lookup(&zero);
	u16 node;
	u8 from;

	if (!all || !other)
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
	return all;
}

static __always_inline bool is_sender(const struct node *node, const struct packet *pkt)
{
	return (pkt->prev_family == 6 ? node_id6(node->address6) : node->tag) == pkt->prev;
}

/* Whether a node before that place in the chain forwarded the packet to this one. */
static __always_inline bool is_sender_before(const struct row *row, u32 place, const struct packet *pkt)
{
	struct node *node;
	u32 k, index;

#pragma unroll
	for (k = 0; k < CHAIN - 1; k++) {
		index = row->node[k];
		node = k < place ? nodes.lookup(&index) : NULL;
		if (node && is_sender(node, pkt))
			return true;
	}
	return false;
}

/* Return the first place of the chain to try. */
static __always_inline u32 next_place(const struct row *row, u32 place, const struct packet *pkt)
{
	if (place == 0)
		return 1;
	if (place != ABSENT && place < pkt->hop && is_sender_before(row, place, pkt))
		return place + 1;
	return 0;
}

/* By MAC only if no router is in between; by a tunnel only if this node too has an address of its outer family. */
static __always_inline bool is_reachable(const struct conf *conf, const struct service *service,
					 const struct node *node)
{
	if (!(node->flags & NODE_HAS_MAC))
		return false;
	if (service->forward == FORWARD_BY_L2)
		return node->flags & NODE_ON_LINK;
	return conf->flags & (node->flags & NODE_OUTER_6 ? CONF_OUTER_6 : CONF_OUTER_4);
}

/* Return the first node from that place on that is not this one, did not send the packet, and is reachable. */
static __always_inline struct node *next_node(const struct conf *conf, const struct service *service,
					      const struct row *row, u32 place, const struct packet *pkt,
					      struct stats *s)
{
	struct node *node;
	u32 index, k;

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
		if (is_reachable(conf, service, node))
			return node;
		count(s, SKIP_NO_MAC);
	}
	return NULL;
}

static __always_inline bool opens_here(const struct service *service, u32 place, const struct packet *pkt)
{
	return pkt->opens && (place == 0 || pkt->hop >= 2 || (pkt->hop == 1 && service->up));
}

static __always_inline enum counter deliver_new_flow(u32 place, const struct packet *pkt)
{
	if (pkt->fragment)
		return DELIVER_FRAGMENT;
	if (pkt->protocol == IPPROTO_UDP)
		return DELIVER_UDP;
	return place == 0 ? DELIVER_OWNER : DELIVER_FORWARDED_SYN;
}

static __always_inline enum counter forward_within_limit(const struct conf *conf, const struct packet *pkt)
{
	if (pkt->hop == 0)
		return FORWARD_FIRST;
	if (pkt->hop < conf->unmetered)
		return FORWARD_AGAIN;
	return is_within_limit(LIMIT_FORWARD_AGAIN, conf->again_cost_ns, conf->again_burst_ns) ? FORWARD_AGAIN
											       : DROP_RATE_LIMIT;
}

/* Return what happens to a packet whose row is `row`, number `r` of `table`; to forward it, set `next`. */
static __always_inline enum counter pick(struct xdp_md *ctx, const struct conf *conf, const struct service *service,
					 u32 table, u32 r, const struct row *row, const struct packet *pkt,
					 struct stats *s, struct node **next)
{
	u32 place = place_of(row, conf->self), first = row->node[0], named = 0, other_r = 0;
	bool empty = !row->node[0], alone;
	enum counter found;

	FORGET(conf, place);
	if (conf->two_banks) {
		other_r = other_row(conf, service, pkt);
		if (!empty)
			named = names_in_other_row(conf, table, other_r);
		if (place >= PLACES_OF_FIRST) /* then only whether it is in the chain matters, not where */
			place = named & NAMES_SELF ? PLACES_OF_FIRST : ABSENT;
		FORGET(conf, place);
	}
	FORGET(conf, named);
	FORGET(conf, other_r);
	alone = empty || (place == 0 && !row->node[1] && !(named & NAMES_OTHERS));

	/*
	 * A shortcut to what the rest returns for most packets of a large cluster: straight from the router, and this
	 * node is not in the chain.
	 */
	if (place == ABSENT && !pkt->hop && !empty) {
		*next = nodes.lookup(&first);
		if (*next && is_reachable(conf, service, *next))
			return FORWARD_FIRST;
		*next = NULL;
	}
	FORGET(conf, place);

	/* Before the socket, which could not change the answer: a flood of SYNs costs no lookups at the owner. */
	if (opens_here(service, place, pkt))
		return deliver_new_flow(place, pkt);

	if (empty && service->flags & SERVICE_DROP_NO_MEMBER)
		return DROP_NO_MEMBER;

	/* With no node to forward to, a socket matters only against the drop in grace. */
	if (alone && (pkt->opens || !is_in_grace(conf, table, r, other_r)))
		return empty ? PASS_NO_MEMBER : DELIVER_ONLY_NODE;

	if (!pkt->fragment && (alone || place != ABSENT || pkt->hop)) {
		found = find_socket(ctx, place, pkt);
		if (found != NO_SOCKET)
			return found;
	}

	if (pkt->hop > CHAIN)
		return DROP_HOP_LIMIT;
	if (conf->two_banks && !empty) {
		row = join_rows(conf, row, find_row(other_table(table), other_r));
		place = place_of(row, conf->self);
		FORGET(conf, place);
	}
	*next = next_node(conf, service, row, next_place(row, place, pkt), pkt, s);
	if (!*next)
		return is_in_grace(conf, table, r, other_r) ? DROP_GRACE : DELIVER_CHAIN_END;
	return forward_within_limit(conf, pkt);
}
