/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * IPv4 (RFC 791) to a VIP, and ICMP (RFC 792). An ICMP error goes to the same node as the flow that it quotes: path-MTU
 * discovery must reach the server that holds the connection. The ingress itself answers echo requests.
 */
#pragma once

#include "cursor.h"
#include "denylist.h"
#include "packet.h"
#include "service.h"
#include "transport.h"

#define IP_DF 0x4000
#define IP_MF 0x2000
#define IP_OFFSET 0x1fff

#define ICMP_DEST_UNREACH 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12

/* Sources that no client can have (RFC 6890): this network, loopback, link-local, multicast, reserved. */
static __always_inline bool is_martian4(__be32 source)
{
	u8 first = source, second = source >> 8;

	return first == 0 || first == 127 || first >= 224 || (first == 169 && second == 254);
}

/* `length` bytes of ICMP; the frame's padding behind them is not part of the quote. */
static __always_inline enum packet_kind parse_icmp(struct cursor *c, u32 length, struct packet *pkt)
{
	struct icmphdr *icmp = take(c, sizeof(*icmp));
	struct iphdr *quoted = take(c, sizeof(*quoted));
	struct ports *ports;

	if (!icmp || !quoted || length < sizeof(*icmp) + quoted->ihl * 4 + sizeof(*ports))
		return KIND_NO_SERVICE;
	if (icmp->type != ICMP_DEST_UNREACH && icmp->type != ICMP_TIME_EXCEEDED && icmp->type != ICMP_PARAMETERPROB)
		return KIND_NO_SERVICE;
	if (quoted->version != 4 || quoted->ihl * 4 < sizeof(*quoted) || quoted->saddr != pkt->vip[0] ||
	    (quoted->frag_off & htons(IP_OFFSET)))
		return KIND_NO_SERVICE;
	c->at = (void *)quoted + quoted->ihl * 4;
	ports = take(c, sizeof(*ports));
	if (!ports)
		return KIND_NO_SERVICE;

	/* The quoted packet went from the VIP to the client: the flow is its reverse. */
	pkt->client[0] = quoted->daddr;
	pkt->client_port = ports->dest;
	pkt->vip_port = ports->source;
	pkt->protocol = quoted->protocol;
	pkt->opens = quoted->protocol == IPPROTO_UDP;
	pkt->icmp_error = true;
	return KIND_FLOW;
}

static __always_inline enum packet_kind parse_ipv4(struct xdp_md *ctx, struct cursor *c, const struct conf *conf,
						   struct packet *pkt)
{
	struct cursor start = *c;
	struct iphdr *ip = take(c, sizeof(*ip));
	u32 header, length;

	if (!ip || !may_be_vip(conf, ip->daddr))
		return KIND_NO_SERVICE;
	pkt->family = 4;
	pkt->client[0] = ip->saddr;
	pkt->vip[0] = ip->daddr;
	pkt->protocol = ip->protocol;
	pkt->dscp = ip->tos & 0xfc;

	header = ip->ihl * 4;
	length = ntohs(ip->tot_len);
	if (ip->version != 4 || header < sizeof(*ip) || length < header || !is_whole(ctx, &start, length, pkt))
		return KIND_MALFORMED;
	pkt->length = length;
	if (is_denied(conf, pkt))
		return KIND_DENIED;
	if (ip->saddr == ip->daddr)
		return KIND_LAND;
	if (is_martian4(ip->saddr))
		return KIND_MARTIAN;
	if (ip->frag_off & htons(IP_MF | IP_OFFSET))
		return parse_fragment(pkt, ip->frag_off & htons(IP_OFFSET));
	c->at = (void *)ip + header;
	length -= header;

	switch (ip->protocol) {
	case IPPROTO_TCP:
		return parse_tcp(ctx, c, length, pkt);
	case IPPROTO_UDP:
		return parse_udp(c, length, pkt);
	case IPPROTO_ICMP:
		return parse_icmp(c, length, pkt);
	default:
		return KIND_NO_SERVICE;
	}
}
