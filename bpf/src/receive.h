/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The start of every XDP program: its configuration, its uplink and the frame's MAC address. A frame to another MAC
 * ends here.
 */
#pragma once

#include "cursor.h"
#include "decap.h"
#include "denylist.h"
#include "ethernet.h"
#include "handle.h"
#include "lb.h"
#include "maps.h"
#include "packet.h"
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
