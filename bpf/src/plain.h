/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the plain program handles: TCP and UDP over IPv4 without options, or over IPv6 without extension headers, for a
 * node that uses one epoch and no sampling; untagged, whole, and neither a fragment nor too large for its
 * tunnel. That is nearly every packet. Tunnels to this node are plain if IPv4 is in IPv4.
 *
 * The general program gets all other packets as they came, by a tail call before anything is counted. It handles plain
 * ones too, with the same result: the proofs run through both. The two share all code but the parsers of this file; a
 * packet's `plain` is known to the compiler, which leaves out what a plain packet cannot have.
 */
#pragma once

#include "cursor.h"
#include "ipv4.h"
#include "ipv6.h"
#include "packet.h"
#include "service.h"

#define NOT_PLAIN (-1)     /* in place of an XDP verdict: for the general program */
#define FOR_COLLECTOR (-2) /* likewise: for the program that collects fragments; see collect.h */

#if NAT
/* Return the size of the IP header. */
static __always_inline u32 plain_header(const struct packet *pkt)
{
	return pkt->family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
}
#endif

static __always_inline bool has_plain_conf(const struct conf *conf)
{
	return !(conf->flags & CONF_SAMPLE) && !conf->two_banks;
}

/* The header begins `offset` bytes into the frame, which holds 20 bytes of it, and `at` bytes into the packet. */
static __always_inline bool parse_plain_transport(const void *header, u32 offset, u32 at, struct packet *pkt)
{
	const struct tcphdr *tcp = header;
	const struct udphdr *udp = header;
	u32 size;

	if (pkt->protocol == IPPROTO_TCP) {
		size = tcp->doff * 4;
		if (size < sizeof(*tcp))
			return false;
		pkt->opens = tcp->syn && !tcp->ack;
		pkt->tcp = offset + at;
	} else {
		size = ntohs(udp->len);
		if (pkt->protocol != IPPROTO_UDP || size < sizeof(*udp))
			return false;
		pkt->opens = true;
	}
	pkt->client_port = udp->source; /* TCP has its ports there too */
	pkt->vip_port = udp->dest;
	return at + size <= pkt->length;
}

/* Parse the packet at the cursor, `offset` bytes into the frame; return false if it is not plain. */
static __always_inline bool parse_plain4(struct xdp_md *ctx, const struct cursor *c, u32 offset, struct packet *pkt)
{
	const struct iphdr *ip = c->at;
	u32 length;

	if ((void *)(ip + 1) + sizeof(struct tcphdr) > c->end)
		return false;
	pkt->family = 4;
	pkt->client[0] = ip->saddr;
	pkt->vip[0] = ip->daddr;
	pkt->protocol = ip->protocol;
	pkt->dscp = ip->tos & 0xfc;
	length = ntohs(ip->tot_len);
	if (*(u8 *)ip != 0x45 || ip->frag_off & htons(IP_MF | IP_OFFSET) || !is_whole(ctx, c, length, pkt) ||
	    ip->saddr == ip->daddr || is_martian4(ip->saddr))
		return false;
	pkt->length = length;
	return parse_plain_transport(ip + 1, offset, sizeof(*ip), pkt);
}

static __always_inline bool parse_plain6(struct xdp_md *ctx, const struct cursor *c, u32 offset, struct packet *pkt)
{
	const struct ipv6hdr *ip = c->at;
	u32 left;

	if ((void *)(ip + 1) + sizeof(struct tcphdr) > c->end)
		return false;
	pkt->family = 6;
	__builtin_memcpy(pkt->client, ip->saddr, sizeof(pkt->client));
	__builtin_memcpy(pkt->vip, ip->daddr, sizeof(pkt->vip));
	pkt->protocol = ip->nexthdr;
	pkt->dscp = ntohl(*(__be32 *)ip) >> 20 & 0xfc;
	left = ntohs(ip->payload_len);
	if (ip->version != 6 || left > 0xffff - sizeof(*ip) || !is_whole(ctx, c, sizeof(*ip) + left, pkt) ||
	    same_address(pkt->client, pkt->vip) || is_martian6(pkt->client))
		return false;
	pkt->length = sizeof(*ip) + left;
	return parse_plain_transport(ip + 1, offset, sizeof(*ip), pkt);
}
