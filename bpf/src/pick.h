/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What to do with a packet of a service: deliver it here, forward it to which node, or drop it. Twin: pick.py.
 *
 * A row's chain names the nodes to try: its owner, then those that owned it or would own it. Nodes may
 * disagree about chains while a change spreads, so a packet carries the number of its forwards (hop), and
 * each node it reaches looks first for a socket of its own. The rule, with p = this node's place in the chain:
 *
 *  1. A packet that opens a flow is taken by the owner (p == 0), by a node that it was forwarded to once and
 *     that is up, and by any node that it was forwarded to twice or more.
 *  2. A packet that has a socket here is taken. Looked for only where one may be: by nodes of the chain, and
 *     in what was forwarded here.
 *  3. Straight from the router, it goes to the owner.
 *  4. Else it goes on down the chain. To place p + 1 only if it came the way that this chain explains: this
 *     node is the owner, or hop and sender say that the places before are tried. Else the sender's table is
 *     another one, and nothing is known to be tried: to place 0. Never back, never to itself.
 *  5. Nobody left to ask: the kernel answers, unless the row has just changed; then it is dropped and TCP
 *     sends it again, by when the tables agree.
 *  6. Forwarded more than CHAIN times: it went in a circle between tables that disagree, so it is dropped.
 *
 * A node may look into the rows of two epochs, so that a switch from one to the other leaves connections where they
 * are. Then the chain is put together from both, as conf.order says: the first four places of the row that new flows
 * go by and the first three of the other, each node where it comes first. Either they take turns, so that both
 * epochs' owners stand at the head: walked over every mixture of nodes that switched and nodes that did not, and all
 * pairs of chains of up to 5 nodes, each owner's packets reach it within two forwards, while one row after the other
 * sent some astray. Or the other's come last: beside nodes that know only the one row, places must mean the same.
 *
 * Were 4 to trust the hop alone and 6 to let the kernel answer, a node's joining while another drains would
 * reset connections: walked over all single changes of 6 nodes, each believing the old table or the new, 948 of
 * 370,320 packets for an old owner met a RST; so it is 30. Nor does it cost more forwards.
 */

#define TCP_ESTABLISHED 1
#define TCP_TIME_WAIT 6
#define TCP_LISTEN 10

#define ABSENT CHAIN       /* a place that is none */
#define NO_SOCKET COUNTERS /* an answer of find_socket() */

static __always_inline u32 place_of(const struct row *row, u16 node)
{
	u32 place;

#pragma unroll
	for (place = 0; place < CHAIN; place++)
		if (row->node[place] == node)
			return place;
	return ABSENT;
}

/* A listener's answer for an ACK: is it one of its SYN cookies? The kernel says no at once if it sent none lately. */
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
 * The local TCP socket's say. TIME-WAIT holds no connection, so it must neither catch a new one (SYN), nor
 * shadow the live one that a client which reuses its port has at the owner (straight from the router).
 */
static __always_inline enum counter tcp_socket(struct xdp_md *ctx, struct bpf_sock *sk, u32 place,
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

/* Fills in whose socket to look for; returns the size, by which the kernel tells IPv4 from IPv6. */
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
			found = tcp_socket(ctx, sk, place, pkt);
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

/* The row of the other epoch's table. */
static __always_inline u32 other_row(const struct conf *conf, const struct service *service, const struct packet *pkt)
{
	u32 side = conf->flags / CONF_BANK % BANKS;

	return flow_hash(conf->hash_key[side ^ 1], service, pkt) & (ROWS - 1);
}

static __always_inline bool in_grace(const struct conf *conf, u32 table, u32 r, u32 other_r)
{
	return is_row_in_grace(table, r) || (conf->flags & CONF_BOTH && is_row_in_grace(table ^ SLOTS, other_r));
}

/* How many places count of each of two rows. */
#define OF_FIRST 4
#define OF_OTHER 3

/* Whom the other epoch's row names: this node, others. */
enum { NAMES_SELF = 1, NAMES_OTHERS = 2 };

static __always_inline u32 look_into_other(const struct conf *conf, u32 table, u32 r)
{
	struct row *row = find_row(table ^ SLOTS, r);
	u32 named = 0, k;

	if (!row)
		return 0;
#pragma unroll
	for (k = 0; k < OF_OTHER; k++) {
		if (row->node[k])
			named |= row->node[k] == conf->self ? NAMES_SELF : NAMES_OTHERS;
		named ^= conf->zero; /* see forget() */
	}
	return named;
}

static __always_inline bool holds(const struct row *row, u32 places, u16 node)
{
	u32 k;

#pragma unroll
	for (k = 0; k < places; k++)
		if (row->node[k] == node)
			return true;
	return false;
}

/* The chain that two rows make together; see the top. */
static __always_inline const struct row *joined(const struct conf *conf, const struct row *row, const struct row *other)
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
		if (node && !holds(all, k, node)) {
			all->node[length & (CHAIN - 1)] = node;
			length++;
		}
		length ^= conf->zero; /* see forget() */
	}
	return all;
}

static __always_inline bool is_prev(const struct node *node, const struct packet *pkt)
{
	return (pkt->prev_family == 6 ? name6(node->address6) : node->tag) == pkt->prev;
}

static __always_inline bool stands_before(const struct row *row, u32 place, const struct packet *pkt)
{
	struct node *node;
	u32 k, index;

#pragma unroll
	for (k = 0; k < CHAIN - 1; k++) {
		index = row->node[k];
		node = k < place ? nodes.lookup(&index) : NULL;
		if (node && is_prev(node, pkt))
			return true;
	}
	return false;
}

/* The place of the chain to go on at. */
static __always_inline u32 next_place(const struct row *row, u32 place, const struct packet *pkt)
{
	if (place == 0)
		return 1;
	if (place != ABSENT && place < pkt->hop && stands_before(row, place, pkt))
		return place + 1;
	return 0;
}

/* By MAC only if no router is in between; by a tunnel if this node has an address of its outer family too. */
static __always_inline bool reachable(const struct conf *conf, const struct service *service, const struct node *node)
{
	if (!(node->flags & NODE_HAS_MAC))
		return false;
	if (service->forward == FORWARD_BY_L2)
		return node->flags & NODE_ON_LINK;
	return conf->flags & (node->flags & NODE_OUTER_6 ? CONF_OUTER_6 : CONF_OUTER_4);
}

/* The first node from there on that is not this one, did not send the packet, and can be reached. */
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
		if (pkt->hop && is_prev(node, pkt))
			continue;
		if (reachable(conf, service, node))
			return node;
		count(s, SKIP_NO_MAC);
	}
	return NULL;
}

static __always_inline enum counter pick(struct xdp_md *ctx, const struct conf *conf, const struct service *service,
					 u32 table, u32 r, const struct row *row, const struct packet *pkt,
					 struct stats *s, struct node **next)
{
	u32 place = place_of(row, conf->self), first = row->node[0], named = 0, other_r = 0;
	bool empty = !row->node[0], alone;
	enum counter found;

	place ^= conf->zero; /* see forget() */
	if (conf->flags & CONF_BOTH) {
		other_r = other_row(conf, service, pkt);
		if (!empty)
			named = look_into_other(conf, table, other_r);
		if (place >= OF_FIRST)
			place = named & NAMES_SELF ? OF_FIRST : ABSENT; /* it matters only whether it is 0 or none */
		place ^= conf->zero;
	}
	named ^= conf->zero;
	other_r ^= conf->zero;
	alone = empty || (place == 0 && !row->node[1] && !(named & NAMES_OTHERS));

	/*
	 * What the rest comes to for most packets of a large cluster: straight from the router, this node is not in
	 * the chain.
	 */
	if (place == ABSENT && !pkt->hop && !empty) {
		*next = nodes.lookup(&first);
		if (*next && reachable(conf, service, *next))
			return FORWARD_FIRST;
		*next = NULL;
	}
	place ^= conf->zero; /* see forget() */

	/* Asked before the socket, which could not change the answer: a flood of SYNs costs no lookups at the owner. */
	if (pkt->opens && (place == 0 || pkt->hop >= 2 || (pkt->hop == 1 && service->up))) {
		if (pkt->fragment)
			return DELIVER_FRAGMENT;
		if (pkt->protocol == IPPROTO_UDP)
			return DELIVER_UDP;
		return place == 0 ? DELIVER_OWNER : DELIVER_FORWARDED_SYN;
	}

	if (empty && service->flags & SERVICE_DROP_NO_MEMBER)
		return DROP_NO_MEMBER;

	/* With nobody to forward to, a socket matters only against the drop in grace. */
	if (alone && (pkt->opens || !in_grace(conf, table, r, other_r)))
		return empty ? PASS_NO_MEMBER : DELIVER_ONLY_NODE;

	if (!pkt->fragment && (alone || place != ABSENT || pkt->hop)) {
		found = find_socket(ctx, place, pkt);
		if (found != NO_SOCKET)
			return found;
	}

	if (pkt->hop > CHAIN)
		return DROP_HOP_LIMIT;
	if (conf->flags & CONF_BOTH && !empty) {
		row = joined(conf, row, find_row(table ^ SLOTS, other_r));
		place = place_of(row, conf->self) ^ conf->zero;
	}
	*next = next_node(conf, service, row, next_place(row, place, pkt), pkt, s);
	if (!*next)
		return in_grace(conf, table, r, other_r) ? DROP_GRACE : DELIVER_CHAIN_END;
	if (pkt->hop == 0)
		return FORWARD_FIRST;
	if (pkt->hop < conf->unmetered)
		return FORWARD_AGAIN;
	return may_spend(AGAIN, conf->again_cost_ns, conf->again_burst_ns) ? FORWARD_AGAIN : DROP_RATE_LIMIT;
}
