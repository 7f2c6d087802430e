/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Answers a TCP segment whose session no node knows with an RST (RFC 9293 section 3.5.2, group 1): no kernel has the
 * connection, and without an answer the sender would send again for minutes. The RST has the number that the segment
 * acknowledges, or else acknowledges all of the segment. Nothing answers an RST. In Python:
 * bpf/reference/translation.py.
 */
#pragma once

#include "cursor.h"
#include "echo.h"
#include "encap.h"
#include "packet.h"
#include "ratelimit.h"
#include "session.h"
#include "track.h"
#include "translate.h"

#if NAT
/* On each CPU, so that a flood of segments of no session is not answered by one of RSTs: 10,000 a second. */
#define RESET_COST_NS 100000
#define RESET_BURST_NS 50000000

#define RESET_HEADER(acknowledges) htonl(5 << 28 | (acknowledges) << 20 | 1 << 18) /* data offset, ACK, RST */

/* The numbers of the RST. */
struct reset {
	__be32 sequence, acknowledged;
	bool acknowledges;
};

/* Return false for an RST, which gets none. `transport` is the offset of the TCP header in the frame. */
static __always_inline bool plan_reset(struct xdp_md *ctx, u32 transport, const struct packet *pkt, struct reset *reset)
{
	const struct tcphdr *tcp = frame_start(ctx) + (transport & HEADERS_END);
	u32 size;

	if ((void *)(tcp + 1) > frame_end(ctx) || tcp->rst)
		return false;
	reset->acknowledges = !tcp->ack;
	if (tcp->ack) {
		reset->sequence = tcp->ack_seq;
		reset->acknowledged = 0;
		return true;
	}
	size = pkt->length - (transport - pkt->l2 - pkt->outer) - tcp->doff * 4 + tcp->syn + tcp->fin;
	reset->sequence = 0;
	reset->acknowledged = htonl(ntohl(tcp->seq) + size);
	return true;
}

/* Write the TCP header behind an IP header, whose addresses come last. */
static __always_inline void write_segment(struct tcphdr *tcp, const struct packet *pkt, const struct reset *reset,
					  u32 address_words)
{
	__be32 *words = (__be32 *)tcp;

	words[0] = pkt->vip_port | (u32)pkt->client_port << 16;
	words[1] = reset->sequence;
	words[2] = reset->acknowledged;
	words[3] = RESET_HEADER(reset->acknowledges);
	words[4] = 0;
	tcp->check = checksum_of(words - address_words, address_words + sizeof(*tcp) / 4,
				 htonl(IPPROTO_TCP) + htonl(sizeof(*tcp)));
}

static __always_inline bool write_reset4(struct iphdr *ip, void *end, const struct packet *pkt,
					 const struct reset *reset)
{
	struct tcphdr *tcp = (void *)(ip + 1);
	__be32 *words = (__be32 *)ip;

	if ((void *)(tcp + 1) > end)
		return false;
	words[0] = htonl(0x45000000 | (u32)(sizeof(*ip) + sizeof(*tcp)));
	words[1] = htonl(IP_DF);
	words[2] = htonl(64 << 24 | IPPROTO_TCP << 16);
	ip->saddr = pkt->vip[0];
	ip->daddr = pkt->client[0];
	ip->check = header_checksum(ip);
	write_segment(tcp, pkt, reset, 2);
	return true;
}

static __always_inline bool write_reset6(struct ipv6hdr *ip, void *end, const struct packet *pkt,
					 const struct reset *reset)
{
	struct tcphdr *tcp = (void *)(ip + 1);

	if ((void *)(tcp + 1) > end)
		return false;
	*(__be32 *)ip = htonl(6 << 28);
	ip->payload_len = htons(sizeof(*tcp));
	ip->nexthdr = IPPROTO_TCP;
	ip->hop_limit = 64;
	__builtin_memcpy(ip->saddr, pkt->vip, sizeof(ip->saddr));
	__builtin_memcpy(ip->daddr, pkt->client, sizeof(ip->daddr));
	write_segment(tcp, pkt, reset, 8);
	return true;
}

/*
 * Turn the packet, a TCP segment from `client` to `vip`, into the RST; what is before it in the frame stays. Return
 * false if it gets none, or the rate is used up: then it must be dropped.
 */
static __always_inline bool write_reset(struct xdp_md *ctx, u32 transport, struct packet *pkt)
{
	bool six = NAT6 && pkt->family == 6;
	u32 before = (pkt->l2 + pkt->outer) & 0x7f;
	u32 length = (six ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + sizeof(struct tcphdr);
	struct reset reset;
	void *ip;

	if (!plan_reset(ctx, transport, pkt, &reset) ||
	    !is_within_limit(LIMIT_REPLY_RESET, RESET_COST_NS, RESET_BURST_NS) ||
	    bpf_xdp_adjust_tail(ctx, (int)(before + length) - (int)bpf_xdp_get_buff_len(ctx)))
		return false;
	ip = frame_start(ctx) + before;
	asm volatile("" : "+r"(ip)); /* clang must not add the offset again: the verifier would not know the sum */
	pkt->length = length;
	return six ? write_reset6(ip, frame_end(ctx), pkt, &reset) : write_reset4(ip, frame_end(ctx), pkt, &reset);
}

/* Answer a client's segment by the next hop to clients. Returns the XDP verdict; `event` becomes another. */
static __always_inline int reply_reset(struct xdp_md *ctx, const struct uplink *uplink, const struct nat_conf *nat,
				       u32 transport, struct packet *pkt, enum counter *event)
{
	u32 index = nat->hops[pkt->family == 6];
	const struct nat_hop *hop = nat_hops.lookup(&index);

	if (!hop || !hop->known || !write_reset(ctx, transport, pkt) ||
	    !rewrite_link(ctx, uplink, hop, link_size(hop, pkt), pkt))
		return XDP_DROP;
	*event = REPLY_RESET;
	return leave_by(ctx, uplink, hop);
}
#endif
