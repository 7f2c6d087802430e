/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Translates ICMP errors (RFC 792, RFC 4443) about NAT sessions, as RFC 5508 section 4 has it: a router on either path,
 * or an end, quotes a packet that this cluster sent to it. The error goes to the other end, quoting what that end sent:
 * the outer addresses, the quoted ones and the ports are rewritten, and the checksums of the quoted IP header, of the
 * quoted TCP or UDP header if the quote reaches so far, and of the error. Its source becomes the session's own: clients
 * never see an address of a backend's network, and backends need no route to the sender. In Python:
 * bpf/reference/translation.py.
 *
 * An error's checksum covers its quote. Of the quote's changes those cancel out that one of its own checksums covers:
 * the addresses by the IPv4 header's; ports and addresses by TCP's or UDP's, although its addresses are elsewhere.
 */
#pragma once

#include "cursor.h"
#include "lb.h"
#include "nat_layout.h"
#include "new_session.h"
#include "packet.h"
#include "session.h"
#include "translate.h"

#if NAT

/* The addresses and ports that a session's packets leave with, and what these and the former ones differ by. */
struct nat_ends {
	__be32 source[4], target[4];
	__be16 source_port, target_port;
	u16 address_sum; /* to add to the complement of a checksum that covers the addresses */
	u16 sum;         /* ... or addresses and ports */
};

/* Where an error quotes ports, the end of the frame, and how many bytes of the packet begin with the ports. */
struct quote {
	struct ports *ports;
	void *end;
	u32 left;
};

/*
 * Rewrite the ports that an error quotes: of a packet of the other direction. Return what the error's checksum changes
 * by, without the quoted addresses.
 */
static __always_inline u32 rewrite_quoted_ports(const struct quote *quote, const struct nat_ends *ends, u8 protocol)
{
	u32 at = protocol == IPPROTO_TCP ? __builtin_offsetof(struct tcphdr, check)
					 : __builtin_offsetof(struct udphdr, check);
	__sum16 *check = (void *)quote->ports + at, sum;

	quote->ports->source = ends->target_port;
	quote->ports->dest = ends->source_port;
	if (at + sizeof(*check) > quote->left || (void *)(check + 1) > quote->end ||
	    (protocol == IPPROTO_UDP && !*check))
		return ends->sum + (u16)~ends->address_sum; /* the ports alone */
	sum = changed_checksum(*check, ends->sum);
	*check = protocol == IPPROTO_UDP && !sum ? 0xffff : sum;
	return (u16)~ends->address_sum;
}

/* Return what the sum of addresses changes by. */
static __always_inline u64 sum_difference(const __be32 *before, const __be32 *after, u32 words)
{
	u64 sum = 0;
	u32 i;

#pragma unroll
	for (i = 0; i < words; i++)
		sum += (u64)(u32)~before[i] + after[i];
	return sum;
}

static __always_inline bool translate_error4(struct iphdr *ip, const struct quote *quote, const struct nat_ends *ends,
					     u8 protocol)
{
	struct icmphdr *icmp = (void *)ip + ip->ihl * 4;
	struct iphdr *quoted;
	u64 sum;

	asm volatile("" : "+r"(icmp)); /* clang must not add the offset again: the verifier would not know the sum */
	quoted = (void *)(icmp + 1);
	if ((void *)(quoted + 1) > quote->end)
		return false;
	sum = sum_difference(&ip->saddr, ends->source, 1) + sum_difference(&ip->daddr, ends->target, 1);
	ip->saddr = ends->source[0];
	ip->daddr = ends->target[0];
	ip->ttl--;
	ip->check = changed_checksum(ip->check, fold_sum(sum + TTL_LESS));
	quoted->saddr = ends->target[0];
	quoted->daddr = ends->source[0];
	quoted->check = changed_checksum(quoted->check, ends->address_sum);
	icmp->checksum = changed_checksum(icmp->checksum, fold_sum(rewrite_quoted_ports(quote, ends, protocol)));
	return true;
}

/* Its checksum covers the outer addresses too (RFC 4443 section 2.3). Routers put no extension headers before it. */
static __always_inline bool translate_error6(struct ipv6hdr *ip, const struct quote *quote, const struct nat_ends *ends,
					     u8 protocol)
{
	struct icmphdr *icmp = (void *)(ip + 1);
	struct ipv6hdr *quoted = (void *)(icmp + 1);
	u64 sum;

	if ((void *)(quoted + 1) > quote->end || ip->nexthdr != IPPROTO_ICMPV6)
		return false;
	sum = sum_difference(ip->saddr, ends->source, 4) + sum_difference(ip->daddr, ends->target, 4);
	sum += ends->address_sum + rewrite_quoted_ports(quote, ends, protocol);
	icmp->checksum = changed_checksum(icmp->checksum, fold_sum(sum));
	__builtin_memcpy(ip->saddr, ends->source, sizeof(ip->saddr));
	__builtin_memcpy(ip->daddr, ends->target, sizeof(ip->daddr));
	__builtin_memcpy(quoted->saddr, ends->target, sizeof(ip->saddr));
	__builtin_memcpy(quoted->daddr, ends->source, sizeof(ip->daddr));
	ip->hop_limit--;
	return true;
}

/*
 * Translate the error at `pkt`, whose quoted ports are `offset` bytes into the frame. Return false, with nothing
 * changed, if it has headers that no router writes: then it must be dropped.
 */
static __always_inline bool translate_error(struct xdp_md *ctx, const struct packet *pkt, u32 offset,
					    const struct nat_ends *ends)
{
	void *start = frame_start(ctx), *ip = start + ((pkt->l2 + pkt->outer) & 0x7f);
	struct quote quote = {
		.ports = start + (offset & HEADERS_END),
		.end = frame_end(ctx),
		.left = pkt->l2 + pkt->outer + pkt->length - offset,
	};
	struct ipv6hdr *ip6;
	struct iphdr *ip4;

	asm volatile("" : "+r"(ip), "+r"(quote.ports)); /* likewise */
	ip6 = ip;
	ip4 = ip;
	if ((void *)(quote.ports + 1) > quote.end)
		return false;
	if (IPV6 && pkt->family == 6)
		return (void *)(ip6 + 1) <= quote.end && translate_error6(ip6, &quote, ends, pkt->protocol);
	return (void *)(ip4 + 1) <= quote.end && translate_error4(ip4, &quote, ends, pkt->protocol);
}

/* Fill in the ends of the packets of a slot's session in that direction; return false if there is no record. */
static __always_inline bool fill_ends(u32 slot, bool reply, const struct packet *pkt, struct nat_ends *ends)
{
	const struct session *session;
	const struct session4 *four;

#if NAT6
	const struct session6 *six;

	if (pkt->family == 6) {
		six = sessions6.lookup(&slot);
		if (!six)
			return false;
		session = &six->rest;
		__builtin_memcpy(ends->source, reply ? six->vip : six->nat, sizeof(ends->source));
		__builtin_memcpy(ends->target, reply ? six->client : six->backend, sizeof(ends->target));
		ends->address_sum = fold_sum(sum_difference(reply ? six->nat : six->vip, ends->source, 4) +
					     sum_difference(reply ? six->backend : six->client, ends->target, 4));
	} else
#endif
	{
		four = sessions4.lookup(&slot);
		if (!four)
			return false;
		session = &four->rest;
		ends->source[0] = reply ? four->vip : four->nat;
		ends->target[0] = reply ? four->client : four->backend;
		ends->address_sum = fold_sum(sum_difference(reply ? &four->nat : &four->vip, ends->source, 1) +
					     sum_difference(reply ? &four->backend : &four->client, ends->target, 1));
	}
	ends->source_port = reply ? session->vip_port : session->nat_port;
	ends->target_port = reply ? session->client_port : session->backend_port;
	ends->sum = session->sums[reply ? 3 : 1];
	return true;
}

/*
 * Translate the error about the slot's session, whose quoted ports are `ports` bytes into the frame, and send it to the
 * other end by `hop`. Returns the XDP verdict; `event` becomes another if the error cannot be sent.
 */
static __always_inline int pass_error_on(struct xdp_md *ctx, const struct uplink *uplink, const struct nat_hop *hop,
					 u32 slot, bool reply, u32 ports, const struct packet *pkt, enum counter *event)
{
	struct nat_ends ends = {};

	if (!fill_ends(slot, reply, pkt, &ends) || !translate_error(ctx, pkt, ports, &ends)) {
		*event = DROP_IPV6_HEADERS;
		return XDP_DROP;
	}
	if (!rewrite_link(ctx, uplink, hop, link_size(hop, pkt), pkt)) {
		*event = DROP_NO_HEADROOM;
		return XDP_DROP;
	}
	return leave_by(ctx, uplink, hop);
}
#endif
