/* SPDX-License-Identifier: GPL-2.0-only */
/* Writes a tunnel's headers before a packet. decap.h has the format. */
#pragma once

#include "cursor.h"
#include "decap.h"
#include "ethernet.h"
#include "ipv4.h"
#include "lb.h"
#include "packet.h"

#define GUE_FIRST_SOURCE 49152 /* source ports: 14 bits of the flow hash, so that receivers' queues spread */

static __always_inline u32 outer_size(const struct service *service, const struct node *next)
{
	u32 size = next->flags & NODE_OUTER_6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);

	return service->forward == FORWARD_BY_GUE ? size + sizeof(struct udphdr) : size;
}

/* RFC 1071, over a header without options. */
static __always_inline __sum16 header_checksum(const struct iphdr *ip)
{
	const u16 *words = (const u16 *)ip;
	u32 sum = 0, i;

#pragma unroll
	for (i = 0; i < sizeof(*ip) / 2; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}

static __always_inline void write_ipv4(struct iphdr *ip, const struct conf *conf, const struct node *next, u8 protocol,
				       u16 length, const struct packet *pkt)
{
	__be32 *words = (__be32 *)ip;
	u64 sum;

	words[0] = htonl(0x45000000 | pkt->dscp << 16 | length);
	words[1] = htonl(next_hop(pkt) << 16 | IP_DF);
	words[2] = htonl(64 << 24 | protocol << 16);
	sum = (u64)words[0] + words[1] + words[2] + conf->address + next->address;
	sum = (u32)sum + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	ip->check = ~(sum + (sum >> 16));
	ip->saddr = conf->address;
	ip->daddr = next->address;
}

static __always_inline void write_ipv6(struct ipv6hdr *ip, const struct conf *conf, const struct node *next,
				       u8 protocol, u16 length, const struct packet *pkt, u32 hash)
{
	*(__be32 *)ip = htonl(6 << 28 | pkt->dscp << 20 | (hash & 0x7fff) << 5 | next_hop(pkt));
	ip->payload_len = htons(length - sizeof(*ip));
	ip->nexthdr = protocol;
	ip->hop_limit = 64;
	__builtin_memcpy(ip->saddr, conf->address6, sizeof(ip->saddr));
	__builtin_memcpy(ip->daddr, next->address6, sizeof(ip->daddr));
}

/* RFC 6935 and RFC 6936 allow a tunnel over IPv6 to omit the checksum: the inner packet has its own. */
static __always_inline void write_udp(struct udphdr *udp, u16 length, u32 hash)
{
	udp->source = htons(GUE_FIRST_SOURCE + (hash & 0x3fff));
	udp->dest = htons(GUE_PORT);
	udp->len = htons(length);
	udp->check = 0;
}

static __always_inline bool encapsulate_as(struct xdp_md *ctx, const struct conf *conf, bool outer6, bool gue,
					   const struct node *next, const u8 *source, const struct packet *pkt,
					   u32 hash)
{
	u32 size = (outer6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + (gue ? sizeof(struct udphdr) : 0);
	u32 l2 = sizeof(struct ethhdr) + (next->vlan ? sizeof(struct vlan_tag) : 0);
	u8 protocol = gue ? IPPROTO_UDP : pkt->family == 4 ? IPPROTO_IPIP : IPPROTO_IPV6;
	__be16 type = outer6 ? htons(ETH_P_IPV6) : htons(ETH_P_IP);
	void *data, *end, *ip;
	struct vlan_tag *tag;

	if (bpf_xdp_adjust_head(ctx, (int)(pkt->l2 + pkt->outer) - (int)(l2 + size)))
		return false;
	data = frame_start(ctx);
	end = frame_end(ctx);
	if (data + sizeof(struct ethhdr) + sizeof(*tag) > end)
		return false;
	copy_mac(data, next->mac);
	copy_mac(data + 6, source);
	ip = data + sizeof(struct ethhdr);
	if (next->vlan) {
		tag = ip;
		tag->tag = htons(next->vlan);
		tag->next = type;
		type = htons(ETH_P_8021Q);
		ip = tag + 1;
	}
	*(__be16 *)(data + 12) = type;
	if (outer6) {
		if (ip + sizeof(struct ipv6hdr) + sizeof(struct udphdr) > end)
			return false;
		write_ipv6(ip, conf, next, protocol, pkt->length + size, pkt, hash);
		ip += sizeof(struct ipv6hdr);
		size -= sizeof(struct ipv6hdr);
	} else {
		if (ip + sizeof(struct iphdr) + sizeof(struct udphdr) > end)
			return false;
		write_ipv4(ip, conf, next, protocol, pkt->length + size, pkt);
		ip += sizeof(struct iphdr);
		size -= sizeof(struct iphdr);
	}
	if (gue)
		write_udp(ip, pkt->length + size, hash);
	return true;
}

/*
 * Write Ethernet, the next hop's VLAN tag and the tunnel's headers before the client's packet, in place of the headers
 * that it came with. Return false, with nothing changed, if the driver has no room for them. The forms are compiled
 * apart: that saves 3 ns.
 */
static __always_inline bool encapsulate(struct xdp_md *ctx, const struct conf *conf, const struct service *service,
					const struct node *next, const u8 *source, const struct packet *pkt, u32 hash)
{
	bool gue = service->forward == FORWARD_BY_GUE;

	if (IPV6 && next->flags & NODE_OUTER_6)
		return encapsulate_as(ctx, conf, true, gue, next, source, pkt, hash);
	if (gue)
		return encapsulate_as(ctx, conf, false, true, next, source, pkt, hash);
	return encapsulate_as(ctx, conf, false, false, next, source, pkt, hash);
}
