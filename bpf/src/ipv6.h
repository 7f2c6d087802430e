/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * IPv6 (RFC 8200) to a VIP, its extension headers, and ICMPv6 errors (RFC 4443) as in ipv4.h. All other ICMPv6 passes,
 * unless no client can have its source. That does not count for neighbor discovery (RFC 4861), whose sources are
 * link-local: the kernel answers it, if the VIP is on that interface. Where it is on lo alone, no neighbor resolves it.
 */
#pragma once

#include "cursor.h"
#include "denylist.h"
#include "nat_pool.h"
#include "packet.h"
#include "service.h"
#include "transport.h"
#include "verifier.h"

#define HEADERS_MAX 6        /* extension headers of a packet */
#define QUOTED_HEADERS_MAX 2 /* of a packet that an error quotes: servers send none, or a fragment's */

#define IP6_MORE_OR_OFFSET 0xfff9
#define IP6_OFFSET 0xfff8

#define ICMP6_UNREACHABLE 1
#define ICMP6_PARAMETER 4
#define ICMP6_SOLICITATION 135
#define ICMP6_ADVERTISEMENT 136

struct extension {
	u8 next;
	u8 length; /* in units of 8 bytes, without the first */
	u8 type;   /* of a routing header */
	u8 segments_left;
	__be32 more;
};

/* A fragment's header (RFC 8200 section 4.5) has 8 bytes too, and its offset in the place of type and segments. */
struct fragment_header {
	u8 next;
	u8 reserved;
	__be16 offset;
	__be32 id;
};

/* Sources that no client can have (RFC 6890): unspecified, loopback, IPv4-mapped, link-local, multicast. */
static __always_inline bool is_martian6(const __be32 *source)
{
	if (!source[0] && !source[1])
		return (!source[2] && (!source[3] || source[3] == htonl(1))) || source[2] == htonl(0xffff);
	return (source[0] & htonl(0xffc00000)) == htonl(0xfe800000) ||
	       (source[0] & htonl(0xff000000)) == htonl(0xff000000);
}

/* What may follow the extension headers of a packet for a service. */
static __always_inline bool has_flow6(u8 next)
{
	return next == IPPROTO_TCP || next == IPPROTO_UDP || next == IPPROTO_ICMPV6;
}

/* The headers that are read. To the rule for other protocols, ESP and AH are protocols, as in IPv4. */
static __always_inline bool is_extension(u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_FRAGMENT ||
	       next == IPPROTO_DSTOPTS;
}

/*
 * Move the cursor past extension headers, within `left` bytes; `next` is then TCP, UDP or ICMPv6 if KIND_FLOW is
 * returned. An atomic fragment (RFC 6946) is no fragment. A routing header with segments left is not followed.
 */
static __always_inline enum packet_kind skip_headers(struct xdp_md *ctx, const struct conf *conf, struct cursor *c,
						     u8 *next, u32 *left, int most, __be16 *fragment)
{
	struct extension *header;
	__be16 offset;
	u32 size;
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i <= most; i++) {
		if (has_flow6(*next))
			return KIND_FLOW;
		if (!is_extension(*next))
			return KIND_OTHER_PROTOCOL;
		if (i == most)
			return KIND_IPV6_HEADERS;
		header = take(c, sizeof(*header));
		if (!header || *left < sizeof(*header))
			return KIND_MALFORMED;
		size = sizeof(*header);
		if (*next == IPPROTO_FRAGMENT) {
			offset = ((struct fragment_header *)header)->offset & htons(IP6_MORE_OR_OFFSET);
			if (offset) {
				*next = header->next;
				*fragment = offset;
				if (has_flow6(*next))
					return KIND_FLOW;
				return is_extension(*next) ? KIND_IPV6_HEADERS : KIND_OTHER_PROTOCOL;
			}
		} else {
			if (*next == IPPROTO_ROUTING && header->segments_left)
				return KIND_IPV6_HEADERS;
			size += header->length * 8;
		}
		if (size > *left)
			return KIND_MALFORMED;
		*left -= size;
		FORGET(conf, *left);
		*next = header->next;
		c->at = (void *)header + size;
		if (!forget_offset(ctx, c))
			return KIND_IPV6_HEADERS;
	}
	return KIND_IPV6_HEADERS;
}

static __always_inline bool is_neighbor_discovery(const struct cursor *c, u32 left)
{
	const struct icmphdr *icmp = c->at;

	return left >= sizeof(*icmp) && (void *)(icmp + 1) <= c->end &&
	       (icmp->type == ICMP6_SOLICITATION || icmp->type == ICMP6_ADVERTISEMENT);
}

static __always_inline bool is_icmp6_error(const struct icmphdr *icmp)
{
	return icmp->type >= ICMP6_UNREACHABLE && icmp->type <= ICMP6_PARAMETER;
}

/* As ipv4.h's parse_fragment4(); `left` bytes with the fragment's header, which the cursor is behind. */
static __always_inline enum packet_kind parse_fragment6(struct cursor *c, u8 next, u32 left, __be16 fragment,
							struct packet *pkt)
{
	__be16 offset = fragment & htons(IP6_OFFSET);
	struct icmphdr *icmp = c->at;

	if (next == IPPROTO_ICMPV6 && !offset && (void *)(icmp + 1) <= c->end && is_icmp6_error(icmp) &&
	    left >= sizeof(struct fragment_header) + sizeof(*icmp))
		return KIND_ICMP_FRAGMENT;
	return parse_fragment(pkt, offset);
}

/* `left` bytes of ICMPv6, as in ipv4.h's parse_icmp(). */
static __always_inline enum packet_kind parse_icmp6(struct xdp_md *ctx, const struct conf *conf, struct cursor *c,
						    u32 left, struct packet *pkt)
{
	struct icmphdr *icmp = take(c, sizeof(*icmp));
	struct ipv6hdr *quoted = take(c, sizeof(*quoted));
	struct ports *ports;
	__be16 fragment = 0;
	u8 next;

	if (!icmp || !quoted || left < sizeof(*icmp) + sizeof(*quoted))
		return KIND_NO_SERVICE;
	left -= sizeof(*icmp) + sizeof(*quoted);
	if (!is_icmp6_error(icmp) || quoted->version != 6 || !same_address(quoted->saddr, pkt->vip))
		return KIND_NO_SERVICE;
	next = quoted->nexthdr;
	if (skip_headers(ctx, conf, c, &next, &left, QUOTED_HEADERS_MAX, &fragment) != KIND_FLOW || fragment)
		return KIND_NO_SERVICE;
	ports = take(c, sizeof(*ports));
	if (!ports || left < sizeof(*ports))
		return KIND_NO_SERVICE;
	__builtin_memcpy(pkt->client, quoted->daddr, sizeof(pkt->client));
	pkt->client_port = ports->dest;
	pkt->vip_port = ports->source;
	pkt->protocol = next;
	pkt->opens = next == IPPROTO_UDP;
	pkt->icmp_error = true;
	return KIND_FLOW;
}

/* `left` bytes follow the IPv6 header. */
static __always_inline enum packet_kind parse_payload6(struct xdp_md *ctx, const struct conf *conf, struct cursor *c,
						       u8 next, u32 left, struct packet *pkt)
{
	__be16 fragment = 0;
	enum packet_kind kind = skip_headers(ctx, conf, c, &next, &left, HEADERS_MAX, &fragment);

	pkt->protocol = kind == KIND_FLOW ? next : 0;
	if (kind != KIND_FLOW)
		return kind;
	if (fragment)
		return parse_fragment6(c, next, left, fragment, pkt);
	if (pkt->collects)
		return KIND_NO_SERVICE; /* likewise */
	if (next == IPPROTO_TCP)
		return parse_tcp(ctx, c, left, pkt);
	if (next == IPPROTO_UDP)
		return parse_udp(c, left, pkt);
	if (is_neighbor_discovery(c, left))
		return KIND_NO_SERVICE;
	if (parse_icmp6(ctx, conf, c, left, pkt) == KIND_FLOW)
		return KIND_FLOW;
	return is_martian6(pkt->client) ? KIND_MARTIAN : KIND_NO_SERVICE;
}

static __always_inline enum packet_kind parse_ipv6(struct xdp_md *ctx, struct cursor *c, const struct conf *conf,
						   struct packet *pkt)
{
	struct cursor start = *c;
	struct ipv6hdr *ip = take(c, sizeof(*ip));
	u32 left;

	if (!ip)
		return KIND_NO_SERVICE;
	if (!may_be_vip(conf, fold_address(ip->daddr, 6)) && !(pkt->nat && is_in_pool6(ip->daddr)))
		return NAT && is_in_pool6(ip->daddr) ? KIND_POOL : KIND_NO_SERVICE;
	pkt->family = 6;
	__builtin_memcpy(pkt->client, ip->saddr, sizeof(pkt->client));
	__builtin_memcpy(pkt->vip, ip->daddr, sizeof(pkt->vip));
	pkt->dscp = ntohl(*(__be32 *)ip) >> 20 & 0xfc;

	/* Length 0 means a jumbogram (RFC 2675), which no service gets. */
	left = ntohs(ip->payload_len);
	if (ip->version != 6 || !left || left > 0xffff - sizeof(*ip) || !is_whole(ctx, &start, sizeof(*ip) + left, pkt))
		return KIND_MALFORMED;
	pkt->length = sizeof(*ip) + left;
	if (is_denied(conf, pkt))
		return KIND_DENIED;
	if (same_address(ip->saddr, ip->daddr))
		return KIND_LAND;
	/* Routers put no extension headers before an error, so behind them none is looked for. */
	if (ip->nexthdr != IPPROTO_ICMPV6 && is_martian6(ip->saddr))
		return KIND_MARTIAN;
	return parse_payload6(ctx, conf, c, ip->nexthdr, left, pkt);
}
