/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * IPv4 (RFC 791) to a VIP, and ICMP (RFC 792). An ICMP error goes to the same node as the flow that it quotes: path-MTU
 * discovery must reach the server that holds the connection. Any router on the path may send it, and from any address
 * that its interfaces have, so the ranges of sources that no client has do not count. The ingress itself answers echo
 * requests.
 */
#pragma once

#include "cursor.h"
#include "denylist.h"
#include "nat_pool.h"
#include "packet.h"
#include "service.h"
#include "transport.h"
#include "verifier.h"

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

/* As is_martian4(), which is enough for the plain program: it leaves these packets to the general one. */
static __always_inline bool is_martian_here4(const struct conf *conf, __be32 source)
{
	bool class_e = (source & htonl(0xf0000000)) == htonl(0xf0000000) && source != 0xffffffff;

	return is_martian4(source) && !(class_e && conf->flags & CONF_CLASS_E);
}

/* What a packet or a fragment of a flow has, and ICMP. */
static __always_inline bool has_flow4(u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_ICMP;
}

static __always_inline bool is_icmp_error(const struct icmphdr *icmp)
{
	return icmp->type == ICMP_DEST_UNREACH || icmp->type == ICMP_TIME_EXCEEDED || icmp->type == ICMP_PARAMETERPROB;
}

/*
 * A fragment, `length` bytes behind its IP header. No one needs ICMP errors in fragments: their quote is small. And a
 * kernel that has not sent what they quote must not get them.
 */
static __always_inline enum packet_kind parse_fragment4(const struct conf *conf, struct cursor *c,
							const struct iphdr *ip, u32 length, struct packet *pkt)
{
	__be16 offset = ip->frag_off & htons(IP_OFFSET);
	struct icmphdr *icmp = c->at;

	if (!has_flow4(ip->protocol))
		return KIND_OTHER_PROTOCOL;
	if (ip->protocol == IPPROTO_ICMP) {
		if (is_martian_here4(conf, ip->saddr))
			return KIND_MARTIAN;
		if (!offset && length >= sizeof(*icmp) && (void *)(icmp + 1) <= c->end && is_icmp_error(icmp))
			return KIND_ICMP_FRAGMENT;
	}
	return parse_fragment(pkt, offset);
}

/* `length` bytes of ICMP; the frame's padding behind them is not part of the quote. */
static __always_inline enum packet_kind parse_icmp(struct cursor *c, u32 length, struct packet *pkt)
{
	struct icmphdr *icmp = take(c, sizeof(*icmp));
	struct iphdr *quoted = take(c, sizeof(*quoted));
	struct ports *ports;

	if (!icmp || !quoted || length < sizeof(*icmp) + quoted->ihl * 4 + sizeof(*ports))
		return KIND_NO_SERVICE;
	if (!is_icmp_error(icmp) || quoted->version != 4 || quoted->ihl * 4 < sizeof(*quoted) ||
	    quoted->saddr != pkt->vip[0] || (quoted->frag_off & htons(IP_OFFSET)))
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

/* `length` bytes follow the IP header. */
static __always_inline enum packet_kind parse_payload4(struct xdp_md *ctx, const struct conf *conf, struct cursor *c,
						       const struct iphdr *ip, u32 length, struct packet *pkt)
{
	if (ip->frag_off & htons(IP_MF | IP_OFFSET))
		return parse_fragment4(conf, c, ip, length, pkt);
	if (pkt->collects)
		return KIND_NO_SERVICE; /* never; the verifier has less to walk */
	switch (ip->protocol) {
	case IPPROTO_TCP:
		return parse_tcp(ctx, c, length, pkt);
	case IPPROTO_UDP:
		return parse_udp(c, length, pkt);
	case IPPROTO_ICMP:
		if (parse_icmp(c, length, pkt) == KIND_FLOW)
			return KIND_FLOW;
		return is_martian_here4(conf, ip->saddr) ? KIND_MARTIAN : KIND_NO_SERVICE;
	default:
		return KIND_OTHER_PROTOCOL;
	}
}

static __always_inline enum packet_kind parse_ipv4(struct xdp_md *ctx, struct cursor *c, const struct conf *conf,
						   struct packet *pkt)
{
	struct cursor start = *c;
	struct iphdr *ip = take(c, sizeof(*ip));
	u32 header, length;

	if (!ip)
		return KIND_NO_SERVICE;
	if (!may_be_vip(conf, ip->daddr) && !(pkt->nat && is_in_pool4(ip->daddr)))
		return NAT && is_in_pool4(ip->daddr) ? KIND_POOL : KIND_NO_SERVICE;
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
	c->at = (void *)ip + header;
	if (ip->protocol != IPPROTO_ICMP && is_martian_here4(conf, ip->saddr))
		return KIND_MARTIAN;
	return parse_payload4(ctx, conf, c, ip, length - header, pkt);
}
