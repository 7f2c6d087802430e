/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The plain program's path from a frame to a verdict; plain.h has its parsers, and what a plain packet is. NOT_PLAIN:
 * the packet is for the general program, and nothing is counted.
 */
#pragma once

#include "cursor.h"
#include "decap.h"
#include "denylist.h"
#include "ethernet.h"
#include "handle.h"
#include "lb.h"
#include "nat.h"
#include "nat_pool.h"
#include "nat_shortcut.h"
#include "packet.h"
#include "plain.h"
#include "receive.h"
#include "service.h"

/*
 * The parsers found nothing wrong with the packet, so that it is denied comes first, as in the general program.
 * `to_pool`: it is to the NAT pool, so that no service has it.
 */
static __always_inline int handle_plain_flow(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
					     bool to_pool, struct packet *pkt)
{
	int verdict;

	if (!is_denied(conf, pkt))
		return to_pool ? FOR_NAT : handle_flow(ctx, conf, uplink, pkt);
	verdict = handle_no_flow(ctx, conf, KIND_DENIED, pkt);
	return NAT && verdict == FOR_NAT ? NOT_PLAIN : verdict;
}

/* Leave a packet to the next program if it is for NAT; `verdict` is what was decided. */
static __always_inline int leave_plain(int verdict, const struct packet *pkt)
{
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
	return leave_plain(handle_plain_flow(ctx, conf, uplink, false, pkt), pkt);
}

static __always_inline int handle_plain4(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
					 struct cursor *c, struct packet *pkt)
{
	__be16 type = htons(ETH_P_IP);
	struct iphdr *ip = c->at;
	bool to_pool = false;
	int verdict;

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
	if (!parse_plain4(ctx, c, pkt->l2, pkt))
		return NOT_PLAIN;
	verdict = handle_plain_flow(ctx, conf, uplink, to_pool, pkt);
#if NAT
	if (verdict == FOR_NAT)
		/* Not by `to_pool`: the filter of VIPs has 64 bits, and takes some addresses of the pool for VIPs. */
		verdict = pkt->service ? pass_on_established(ctx, conf, uplink, false, pkt)
				       : pass_on_established(ctx, conf, uplink, true, pkt);
#endif
	return leave_plain(verdict, pkt);
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
	if (!parse_plain6(ctx, c, pkt->l2, pkt))
		return NOT_PLAIN;
	return leave_plain(handle_plain_flow(ctx, conf, uplink, to_pool, pkt), pkt);
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
