/* SPDX-License-Identifier: GPL-2.0-only */
/* TCP and UDP: the ports of a flow, and whether the packet opens one. */
#pragma once

#include "cursor.h"
#include "packet.h"

/* An ICMP error quotes the IP header of the packet that it is about and at least 8 bytes more: these are in them. */
struct ports {
	__be16 source, dest;
};

/* `length` bytes from the cursor on are the packet's; the rest of the frame is padding. The same of parse_udp(). */
static __always_inline enum packet_kind parse_tcp(struct xdp_md *ctx, struct cursor *c, u32 length, struct packet *pkt)
{
	struct tcphdr *tcp = take(c, sizeof(*tcp));

	if (!tcp || tcp->doff * 4 < sizeof(*tcp) || tcp->doff * 4 > length)
		return KIND_MALFORMED;
	pkt->tcp = (void *)tcp - (void *)(long)ctx->data;
	pkt->client_port = tcp->source;
	pkt->vip_port = tcp->dest;
	pkt->opens = tcp->syn && !tcp->ack;
	return KIND_FLOW;
}

static __always_inline enum packet_kind parse_udp(struct cursor *c, u32 length, struct packet *pkt)
{
	struct udphdr *udp = take(c, sizeof(*udp));

	if (!udp || ntohs(udp->len) < sizeof(*udp) || ntohs(udp->len) > length)
		return KIND_MALFORMED;
	pkt->client_port = udp->source;
	pkt->vip_port = udp->dest;
	pkt->opens = true;
	return KIND_FLOW;
}
