/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Answers a packet that does not fit into the tunnel: ICMP "fragmentation needed" (RFC 1191) or ICMPv6 "packet too big"
 * (RFC 4443 section 3.2), made from the packet itself and sent from the VIP back to the client by the same interface.
 *
 * IPv4 packets are answered whether or not they may be fragmented: this node cannot fragment, and the client's kernel
 * obeys. Nothing is sent about an ICMP error or a later fragment (RFC 1122 section 3.2.2), nor about what another node
 * forwarded here, since its sender is not the client's router.
 */
#pragma once

#include "cursor.h"
#include "encap.h"
#include "ethernet.h"
#include "ipv4.h"
#include "packet.h"
#include "ratelimit.h"

/* Bytes: at most 576 in all (RFC 1812 section 4.3.2.3), and bpf_csum_diff() takes 512 with ICMP's 8. */
#define QUOTED 504
#define REPLY_COST_NS 1000000
#define REPLY_BURST_NS 50000000

#define ICMP_FRAG_NEEDED 4
#define ICMP6_TOO_BIG 2

static __always_inline __sum16 fold_checksum(u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}

static __always_inline bool write_too_big4(struct iphdr *ip, void *end, const struct packet *pkt, u16 mtu)
{
	struct icmphdr *icmp = (void *)(ip + 1);

	if ((void *)(icmp + 1) + QUOTED > end)
		return false;
	ip->version = 4;
	ip->ihl = 5;
	ip->tos = 0;
	ip->tot_len = htons(sizeof(*ip) + sizeof(*icmp) + QUOTED);
	ip->id = 0;
	ip->frag_off = htons(IP_DF);
	ip->ttl = 64;
	ip->protocol = IPPROTO_ICMP;
	ip->check = 0;
	ip->saddr = pkt->vip[0];
	ip->daddr = pkt->client[0];
	ip->check = header_checksum(ip);

	icmp->type = ICMP_DEST_UNREACH;
	icmp->code = ICMP_FRAG_NEEDED;
	icmp->checksum = 0;
	icmp->un.frag.unused = 0;
	icmp->un.frag.mtu = htons(mtu);
	icmp->checksum = fold_checksum(bpf_csum_diff(NULL, 0, (void *)icmp, sizeof(*icmp) + QUOTED, 0));
	return true;
}

static __always_inline bool write_too_big6(struct ipv6hdr *ip, void *end, const struct packet *pkt, u16 mtu)
{
	struct icmphdr *icmp = (void *)(ip + 1);
	__be32 length = htonl(sizeof(*icmp) + QUOTED), next = htonl(IPPROTO_ICMPV6);
	u32 sum;

	if ((void *)(icmp + 1) + QUOTED > end)
		return false;
	*(__be32 *)ip = htonl(6 << 28);
	ip->payload_len = htons(sizeof(*icmp) + QUOTED);
	ip->nexthdr = IPPROTO_ICMPV6;
	ip->hop_limit = 64;
	__builtin_memcpy(ip->saddr, pkt->vip, sizeof(ip->saddr));
	__builtin_memcpy(ip->daddr, pkt->client, sizeof(ip->daddr));

	icmp->type = ICMP6_TOO_BIG;
	icmp->code = 0;
	icmp->checksum = 0;
	icmp->un.gateway = htonl(mtu); /* the whole word is the MTU in ICMPv6 */
	sum = bpf_csum_diff(NULL, 0, (void *)ip->saddr, 2 * sizeof(ip->saddr), 0);
	sum = bpf_csum_diff(NULL, 0, &length, sizeof(length), sum);
	sum = bpf_csum_diff(NULL, 0, &next, sizeof(next), sum);
	icmp->checksum = fold_checksum(bpf_csum_diff(NULL, 0, (void *)icmp, sizeof(*icmp) + QUOTED, sum));
	return true;
}

/* Turn the frame into the ICMP error. Return false if that is impossible; then the frame must be dropped. */
static __always_inline bool reply_too_big(struct xdp_md *ctx, const struct packet *pkt, u16 mtu)
{
	int room = pkt->family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	int cut = (int)(pkt->l2 + QUOTED) - (int)bpf_xdp_get_buff_len(ctx);
	union link_header link, back;
	u32 l2 = pkt->l2, i;
	void *ip;

	if (pkt->hop || pkt->was_forwarded || pkt->icmp_error || pkt->fragment == LATER_FRAGMENT ||
	    pkt->length < QUOTED || (pkt->family == 6 && mtu < IPV6_MTU_MIN) ||
	    !is_within_limit(LIMIT_REPLY_TOO_BIG, REPLY_COST_NS, REPLY_BURST_NS))
		return false;
	if (!save_link(ctx, &link))
		return false;
	back = link;
#pragma unroll
	for (i = 0; i < 3; i++) { /* the MACs change places */
		back.halves[i] = link.halves[3 + i];
		back.halves[3 + i] = link.halves[i];
	}
	if ((cut && bpf_xdp_adjust_tail(ctx, cut)) || bpf_xdp_adjust_head(ctx, -room - (int)sizeof(struct icmphdr)))
		return false;
	if (!restore_link(ctx, &back, l2, pkt->family))
		return false;
	ip = frame_start(ctx) + (l2 > 18 ? 22 : l2 > 14 ? 18 : 14);
	return pkt->family == 4 ? write_too_big4(ip, frame_end(ctx), pkt, mtu)
				: write_too_big6(ip, frame_end(ctx), pkt, mtu);
}
