/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Parses a frame into a struct packet: its destination, its flow, the node that forwarded it. Decides only what kind of
 * packet it is. decap.h parses a tunnel's headers, ipv4.h and ipv6.h what an ICMP error quotes.
 */
#pragma once

#include "cursor.h"
#include "decap.h"
#include "ethernet.h"
#include "ipv4.h"
#include "ipv6.h"
#include "packet.h"
#include "verifier.h"

/* The tags and the tunnel around a packet, whose type is then `type`. */
static __always_inline enum packet_kind parse_outer(struct xdp_md *ctx, struct cursor *c, const struct conf *conf,
						    __be16 *type, struct packet *pkt)
{
	u32 two = 0;

	if (is_vlan(*type)) {
		*type = skip_vlan_tags(c, *type, pkt, &two);
		FORGET(conf, two); /* the others come after the test: before it, they do not help Linux 6.1 */
		if (!are_named_vlans(two))
			return KIND_OTHER_VLAN;
		FORGET(conf, *type);
		FORGET(conf, pkt->l2);
		forget_offset(ctx, c);
	}
	return parse_tunnel(ctx, conf, c, type, pkt);
}

static __always_inline enum packet_kind parse_inner(struct xdp_md *ctx, struct cursor *c, const struct conf *conf,
						    __be16 type, struct packet *pkt)
{
	enum packet_kind kind;

	if (pkt->outer) {
		forget_packet(conf, pkt);
		FORGET(conf, type);
		forget_offset(ctx, c);
	}
	if (type == htons(ETH_P_IP))
		kind = parse_ipv4(ctx, c, conf, pkt);
	else if (IPV6 && type == htons(ETH_P_IPV6))
		kind = parse_ipv6(ctx, c, conf, pkt);
	else
		return KIND_NO_SERVICE;
	forget_packet(conf, pkt);
	return kind;
}
