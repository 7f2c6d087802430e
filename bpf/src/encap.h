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
	words[1] = htonl((pkt->hop + 1) << 16 | IP_DF);
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
	*(__be32 *)ip = htonl(6 << 28 | pkt->dscp << 20 | (hash & 0xffff) << 4 | (pkt->hop + 1));
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

/*
 * Write Ethernet, the next hop's VLAN tag and the tunnel's headers before the client's packet, in place of the headers
 * that it came with. Return false, with nothing changed, if the driver has no room for them.
 */
static __always_inline bool encapsulate(struct xdp_md *ctx, const struct conf *conf, const struct service *service,
					const struct node *next, const u8 *source, const struct packet *pkt, u32 hash)
{
	bool outer6 = IPV6 && next->flags & NODE_OUTER_6, gue = service->forward == FORWARD_BY_GUE;
	u32 size = outer_size(service, next), l2 = sizeof(struct ethhdr) + (next->vlan ? sizeof(struct vlan_tag) : 0);
	u8 protocol = gue ? IPPROTO_UDP : pkt->family == 4 ? IPPROTO_IPIP : IPPROTO_IPV6;
	__be16 type = outer6 ? htons(ETH_P_IPV6) : htons(ETH_P_IP);
	struct cursor c;
	struct ethhdr *eth;
	struct vlan_tag *tag;
	struct udphdr *udp;
	struct ipv6hdr *ip6;
	struct iphdr *ip4;

	if (bpf_xdp_adjust_head(ctx, (int)(pkt->l2 + pkt->outer) - (int)(l2 + size)))
		return false;
	c.at = frame_start(ctx);
	c.end = frame_end(ctx);

	eth = take(&c, sizeof(*eth));
	if (!eth)
		return false;
	copy_mac(eth->h_dest, next->mac);
	copy_mac(eth->h_source, source);
	eth->h_proto = type;
	if (next->vlan) {
		tag = take(&c, sizeof(*tag));
		if (!tag)
			return false;
		eth->h_proto = htons(ETH_P_8021Q);
		tag->tag = htons(next->vlan);
		tag->next = type;
	}
	if (outer6) {
		ip6 = take(&c, sizeof(*ip6));
		if (!ip6)
			return false;
		write_ipv6(ip6, conf, next, protocol, pkt->length + size, pkt, hash);
		size -= sizeof(*ip6);
	} else {
		ip4 = take(&c, sizeof(*ip4));
		if (!ip4)
			return false;
		write_ipv4(ip4, conf, next, protocol, pkt->length + size, pkt);
		size -= sizeof(*ip4);
	}
	if (gue) {
		udp = take(&c, sizeof(*udp));
		if (!udp)
			return false;
		write_udp(udp, pkt->length + size, hash);
	}
	return true;
}
