/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The XDP programs: a packet's path through a node, from parse to verdict. The first, PROGRAM, handles plain packets
 * (plain.h) and leaves the others to the second, `general`. That leaves fragments whose flow needs ports to the third,
 * `collector` (collect.h). Packets of NAT (nat.h) have programs of their own: `nat` for plain ones, which PROGRAM has
 * parsed, and for the others `nat_general`, which parses, and `nat_parsed`.
 *
 * But for NAT no state is written per flow: a million flows, or a flood, cost what one flow costs. source.py joins the
 * included files into one text (BCC rewrites map lookups only in the main text).
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/icmp.h>
#include <uapi/linux/tcp.h>
#include <uapi/linux/udp.h>

#include "collect.h"
#include "cursor.h"
#include "decap.h"
#include "denylist.h"
#include "ethernet.h"
#include "handle.h"
#include "lb.h"
#include "maps.h"
#include "nat.h"
#include "nat_layout.h"
#include "nat_pool.h"
#include "packet.h"
#include "parse.h"
#include "plain.h"
#include "service.h"

/* Read the ends of the IP packet at the cursor; return false if it is none, or surely not to a VIP. */
static __always_inline bool parse_ends(const struct cursor *c, const struct conf *conf, __be16 type, struct packet *pkt)
{
	const struct iphdr *ip = c->at;
	const struct ipv6hdr *ip6 = c->at;

	if (type == htons(ETH_P_IP) && (void *)(ip + 1) <= c->end) {
		pkt->family = 4;
		pkt->client[0] = ip->saddr;
		pkt->vip[0] = ip->daddr;
	} else if (IPV6 && type == htons(ETH_P_IPV6) && (void *)(ip6 + 1) <= c->end) {
		pkt->family = 6;
		__builtin_memcpy(pkt->client, ip6->saddr, sizeof(pkt->client));
		__builtin_memcpy(pkt->vip, ip6->daddr, sizeof(pkt->vip));
	} else {
		return false;
	}
	return may_be_vip(conf, fold_address(pkt->vip, pkt->family));
}

/*
 * A frame to another MAC than this interface's. Broadcast and multicast reach every node of the segment: each would
 * answer for the VIP, and by its kernel, past the deny list.
 */
static __always_inline int handle_other_mac(struct xdp_md *ctx, const struct conf *conf, struct cursor *c, bool plain)
{
	struct packet pkt = { .l2 = sizeof(struct ethhdr) };
	struct ethhdr *eth = c->at;
	struct service *service;
	__be16 type = eth->h_proto;
	u32 two = 0;

	if (!(eth->h_dest[0] & 1))
		return pass(PASS_OTHER_MAC);
	if (plain)
		return NOT_PLAIN;
	c->at = eth + 1;
	type = skip_vlan_tags(c, type, &pkt, &two);
	if (!are_named_vlans(two) || !parse_ends(c, conf, type, &pkt))
		return pass(PASS_OTHER_MAC);
	service = lookup_service(&pkt, 0, 0);
	if (!service)
		return pass(PASS_OTHER_MAC);
	return drop(ctx, conf, service->slot, DROP_GROUP_MAC, &pkt);
}

/*
 * A frame for this interface, and the maps that all frames need; NULL if `verdict` is decided already. The frame begins
 * at the cursor, which moves past Ethernet.
 */
static __always_inline struct ethhdr *receive(struct xdp_md *ctx, struct cursor *c, struct conf **conf,
					      struct uplink **uplink, bool plain, int *verdict)
{
	u32 zero = 0, this_uplink = UPLINK;
	struct ethhdr *eth = c->at;

	*conf = confs.lookup(&zero);
	*uplink = uplinks.lookup(&this_uplink);
	*verdict = XDP_PASS;
	if (!*conf || !*uplink) /* never: both are arrays; the verifier wants the check */
		return NULL;
	if ((void *)(eth + 1) > c->end) {
		*verdict = pass(PASS_NO_SERVICE);
		return NULL;
	}
	if (!same_mac(eth->h_dest, (*uplink)->mac)) {
		*verdict = handle_other_mac(ctx, *conf, c, plain);
		return NULL;
	}
	c->at = eth + 1;
	return eth;
}

/* A parsed packet with a flow. At the cursor is what follows its TCP or UDP header, or the ports an error quotes. */
static __always_inline int handle_parsed(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
					 const struct cursor *c, struct packet *pkt)
{
#if NAT
	u64 next = c->at - frame_start(ctx);

	if (pkt->nat) {
		FORGET(conf, next); /* else clang subtracts from the pointer */
		if (pkt->icmp_error)
			next -= sizeof(struct ports);
		else
			next -= pkt->protocol == IPPROTO_TCP ? sizeof(struct tcphdr) : sizeof(struct udphdr);
		return leave_if_for_nat(ctx, conf, next, pkt);
	}
#endif
	return handle_flow(ctx, conf, uplink, pkt);
}

static __always_inline int handle_any(struct xdp_md *ctx, bool nat)
{
	struct cursor c = { frame_start(ctx), frame_end(ctx) };
	struct packet pkt = { .l2 = sizeof(struct ethhdr), .nat = nat };
	enum packet_kind kind;
	struct uplink *uplink;
	struct ethhdr *eth;
	struct conf *conf;
	int verdict;
	__be16 type;

	eth = receive(ctx, &c, &conf, &uplink, false, &verdict);
	if (!eth)
		return verdict;
	parse_marker(eth, &pkt);
	type = eth->h_proto;
	kind = parse_outer(ctx, &c, conf, &type, &pkt);
	/* Not after parse_inner(): if clang merges this with the other kinds, it spills all of pkt: 27 ns more. */
	if (kind == KIND_ECHO)
		return handle_echo(ctx, conf, uplink, &pkt);
	if (kind == KIND_FLOW)
		kind = parse_inner(ctx, &c, conf, type, &pkt);
	return kind == KIND_FLOW ? handle_parsed(ctx, conf, uplink, &c, &pkt) : handle_no_flow(ctx, conf, kind, &pkt);
}

/* A fragment that the general program left: it found nothing wrong with it. */
static __always_inline int collect_any(struct xdp_md *ctx)
{
	struct packet pkt = { .l2 = sizeof(struct ethhdr), .collects = true };
	struct cursor c = { frame_start(ctx), frame_end(ctx) };
	struct uplink *uplink;
	struct ethhdr *eth;
	struct conf *conf;
	int verdict;
	__be16 type;

	eth = receive(ctx, &c, &conf, &uplink, true, &verdict);
	if (!eth)
		return XDP_PASS; /* never */
	parse_marker(eth, &pkt);
	type = eth->h_proto;
	if (parse_outer(ctx, &c, conf, &type, &pkt) != KIND_FLOW || parse_inner(ctx, &c, conf, type, &pkt) != KIND_FLOW)
		return XDP_PASS; /* never */
	forget_offset(ctx, &c);
	return handle_fragment(ctx, conf, uplink, &c, &pkt);
}

/*
 * The parsers found nothing wrong with the packet, so that it is denied comes first, as in the general program.
 * `to_pool`: it is to the NAT pool, so that no service has it.
 */
static __always_inline int handle_plain_flow(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
					     bool to_pool, struct packet *pkt)
{
	int verdict;

	if (is_denied(conf, pkt)) {
		verdict = handle_no_flow(ctx, conf, KIND_DENIED, pkt);
		return NAT && verdict == FOR_NAT ? NOT_PLAIN : verdict;
	}
	verdict = to_pool ? FOR_NAT : handle_flow(ctx, conf, uplink, pkt);
#if NAT
	if (verdict == FOR_NAT)
		return leave_parsed(pkt, pkt->l2 + pkt->outer + plain_header(pkt));
#endif
	return verdict;
}

/* A tunnel to this node: open it if an IPv4 packet is in it. */
static __always_inline int handle_plain_tunnel4(struct xdp_md *ctx, const struct conf *conf,
						const struct uplink *uplink, const struct cursor *c, __be16 type,
						struct packet *pkt)
{
	if (type != htons(ETH_P_IP) || !parse_plain4(ctx, c, pkt->l2 + pkt->outer, pkt))
		return NOT_PLAIN;
	return handle_plain_flow(ctx, conf, uplink, false, pkt);
}

static __always_inline int handle_plain4(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
					 struct cursor *c, struct packet *pkt)
{
	__be16 type = htons(ETH_P_IP);
	struct iphdr *ip = c->at;
	bool to_pool = false;

	if ((void *)(ip + 1) > c->end)
		return NOT_PLAIN;
	if (ip->daddr == conf->address && ip->protocol != IPPROTO_TCP) {
		if (parse_tunnel4(ctx, conf, c, &type, pkt) != KIND_FLOW)
			return NOT_PLAIN;
		if (pkt->outer)
			return handle_plain_tunnel4(ctx, conf, uplink, c, type, pkt);
	}
	if (!may_be_vip(conf, ip->daddr)) {
		to_pool = NAT && is_in_pool4(ip->daddr);
		if (!to_pool)
			return pass(PASS_NO_SERVICE);
	}
	return parse_plain4(ctx, c, pkt->l2, pkt) ? handle_plain_flow(ctx, conf, uplink, to_pool, pkt) : NOT_PLAIN;
}

static __always_inline int handle_plain6(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
					 struct cursor *c, struct packet *pkt)
{
	struct ipv6hdr *ip = c->at;
	bool to_pool = false;

	if ((void *)(ip + 1) > c->end || (ip->daddr[3] == conf->address6[3] && ip->nexthdr != IPPROTO_TCP))
		return NOT_PLAIN;
	if (!may_be_vip(conf, fold_address(ip->daddr, 6))) {
		to_pool = NAT && is_in_pool6(ip->daddr);
		if (!to_pool)
			return pass(PASS_NO_SERVICE);
	}
	return parse_plain6(ctx, c, pkt->l2, pkt) ? handle_plain_flow(ctx, conf, uplink, to_pool, pkt) : NOT_PLAIN;
}

static __always_inline int handle_plain(struct xdp_md *ctx)
{
	struct packet pkt = { .l2 = sizeof(struct ethhdr), .plain = true };
	struct cursor c = { frame_start(ctx), frame_end(ctx) };
	struct uplink *uplink;
	struct ethhdr *eth;
	struct conf *conf;
	int verdict;
	__be16 type;

	eth = receive(ctx, &c, &conf, &uplink, true, &verdict);
	if (!eth)
		return verdict;
	if (!has_plain_conf(conf))
		return NOT_PLAIN;
	parse_marker(eth, &pkt);
	type = ether_type(eth);
	if (type == htons(ETH_P_IP))
		return handle_plain4(ctx, conf, uplink, &c, &pkt);
	if (IPV6 && type == htons(ETH_P_IPV6))
		return handle_plain6(ctx, conf, uplink, &c, &pkt);
	return NOT_PLAIN;
}

int collector(struct xdp_md *ctx)
{
	return collect_any(ctx);
}

#if NAT
/* A packet that another program parsed: a plain one, or any. */
static __always_inline int handle_nat_parsed(struct xdp_md *ctx, bool plain)
{
	u32 this_uplink = UPLINK, zero = 0;
	struct nat_parsed *parsed = nat_parsed_packets.lookup(&zero);
	struct uplink *uplink = uplinks.lookup(&this_uplink);
	struct conf *conf = confs.lookup(&zero);
	struct packet pkt;

	if (!parsed || !conf || !uplink)
		return XDP_DROP; /* never */
	pkt = parsed->pkt;
	pkt.plain = plain;
	pkt.collects = false;
	pkt.nat = true;
	pkt.fragment = pkt.hop_offset = pkt.was_forwarded = 0;
	if (plain) {
		pkt.l2 = sizeof(struct ethhdr);
		pkt.icmp_error = 0;
	}
	return handle_nat(ctx, conf, uplink, parsed->transport, &pkt);
}

int nat_parsed(struct xdp_md *ctx)
{
	return handle_nat_parsed(ctx, false);
}

int nat_general(struct xdp_md *ctx)
{
	int verdict = handle_any(ctx, true);

	if (verdict != FOR_NAT)
		return verdict;
	programs.call(ctx, NAT_PARSED);
	return XDP_PASS; /* never */
}

int nat(struct xdp_md *ctx)
{
	int verdict = handle_nat_parsed(ctx, true);

	if (verdict >= 0)
		return verdict;
	programs.call(ctx, NAT_GENERAL);
	return XDP_PASS; /* never: all tail calls are in their places before a program is attached */
}
#endif

int general(struct xdp_md *ctx)
{
	int verdict = handle_any(ctx, false);

	if (verdict >= 0)
		return verdict;
#if NAT
	if (verdict == FOR_NAT)
		programs.call(ctx, NAT_GENERAL);
#endif
	programs.call(ctx, COLLECTOR);
	return XDP_PASS; /* never */
}

int PROGRAM(struct xdp_md *ctx)
{
	int verdict = PLAIN ? handle_plain(ctx) : handle_any(ctx, false);

	if (verdict >= 0)
		return verdict;
#if NAT
	if (verdict == FOR_NAT)
		programs.call(ctx, PLAIN ? NAT_PLAIN : NAT_GENERAL);
#endif
	if (verdict == FOR_COLLECTOR)
		programs.call(ctx, COLLECTOR);
	else
		programs.call(ctx, GENERAL);
	return XDP_PASS; /* never */
}
