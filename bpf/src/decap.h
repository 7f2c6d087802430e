/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tunnels between nodes: IP in IP (RFC 2003, RFC 2473, RFC 4213) and GUE variant 1 (draft-ietf-intarea-gue section
 * 4: the IP packet follows UDP directly, and its version distinguishes it from variant 0). This file reads their
 * headers and removes them; encap.h writes them.
 *
 *	Ethernet [VLAN] | IPv4 (ID = hop, DF)                      | [UDP, port 6080] | the client's packet
 *	                | IPv6 (flow label ends in 5 bits of hop)  |
 *
 * A tunnel is accepted only if all of its header is as a node of the cluster writes it, from an address of a node, to
 * this node, and around a packet for a service or an echo question (echo.h). A sender that forges such a source can
 * send to the VIP anyway, but it chooses the node: the edge must filter node addresses.
 */
#pragma once

#include "cursor.h"
#include "ethernet.h"
#include "ipv4.h"
#include "lb.h"
#include "maps.h"
#include "packet.h"

struct inner_version {
	u8 rest : 4, version : 4;
};

static __always_inline bool is_node_address(struct prefix *source)
{
	return node_prefixes.lookup(source);
}

/* Most clusters have one prefix: comparing it costs less than a search of the map. */
static __always_inline bool is_node_address4(__be32 address)
{
	struct prefix source = { .length = 32 + 32, .family = 4, .address = { address } };
	u32 zero = 0;
	u64 *prefix = node_prefix4.lookup(&zero), first = prefix ? *prefix : 0, mask = first >> 32;

	return (mask && (address & mask) == (u32)first) || is_node_address(&source);
}

/*
 * Return the EtherType of what follows the outer IP header, `left` bytes, if it is as the cluster writes it, else 0.
 * Moves the cursor there, past UDP if there is one.
 */
static __always_inline __be16 inner_type(struct cursor *c, u8 protocol, u32 left, struct packet *pkt)
{
	struct inner_version *inner;
	struct udphdr *udp;

	if (protocol == IPPROTO_UDP) {
		udp = take(c, sizeof(*udp));
		if (!udp || left < sizeof(*udp) || udp->check || ntohs(udp->len) != left)
			return 0;
		pkt->outer += sizeof(*udp);
		left -= sizeof(*udp);
	}
	pkt->length = left;
	inner = c->at;
	if ((void *)(inner + 1) > c->end)
		return 0;
	if (inner->version == 4 && protocol != IPPROTO_IPV6 && left >= sizeof(struct iphdr))
		return htons(ETH_P_IP);
	if (inner->version == 6 && protocol != IPPROTO_IPIP && left >= sizeof(struct ipv6hdr))
		return htons(ETH_P_IPV6);
	return 0;
}

/* Whether `left` bytes at the cursor are UDP to that port. */
static __always_inline bool is_udp_to(__be16 port, const struct cursor *c, u8 protocol, u32 left)
{
	struct udphdr *udp = c->at;

	return protocol == IPPROTO_UDP && (void *)(udp + 1) <= c->end && left >= sizeof(*udp) && udp->dest == port;
}

/* Return false if it is no tunnel at all, but the node's own traffic. `left` bytes follow the outer IP header. */
static __always_inline bool carries_tunnel(const struct cursor *c, u8 protocol, u32 left)
{
	return is_udp_to(htons(GUE_PORT), c, protocol, left) || protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6;
}

/* Only fragments have a hop beyond HOP_MAX, and the plain program handles none; see is_foreign_hop(). */
static __always_inline u32 hop_limit(const struct packet *pkt)
{
	return pkt->plain ? HOP_MAX : COLLECT_HOP_MAX;
}

/* Whether a packet that is no fragment came in a tunnel with a hop that the cluster writes for fragments alone. */
static __always_inline bool is_foreign_hop(const struct packet *pkt)
{
	return !pkt->plain && pkt->outer && pkt->hop > HOP_MAX;
}

/*
 * Whether the packet in a tunnel has the ends of the tunnel itself: then it is not for a service. The plain program
 * does not ask, since it leaves all tunnels without a packet for a service to the general one.
 */
static __always_inline bool has_ends_of4(const struct iphdr *outer, const struct cursor *c, __be16 type,
					 const struct packet *pkt)
{
	const struct iphdr *inner = c->at;

	return !pkt->plain && type == htons(ETH_P_IP) && (void *)(inner + 1) <= c->end &&
	       inner->saddr == outer->saddr && inner->daddr == outer->daddr;
}

static __always_inline bool has_ends_of6(const struct ipv6hdr *outer, const struct cursor *c, __be16 type)
{
	const struct ipv6hdr *inner = c->at;

	return type == htons(ETH_P_IPV6) && (void *)(inner + 1) <= c->end && same_address(inner->saddr, outer->saddr) &&
	       same_address(inner->daddr, outer->daddr);
}

static __always_inline enum packet_kind parse_tunnel4(struct xdp_md *ctx, const struct conf *conf, struct cursor *c,
						      __be16 *type, struct packet *pkt)
{
	struct cursor start = *c, after = *c;
	struct iphdr *ip = take(&after, sizeof(*ip));
	u32 length, left, hop, came;

	if (!ip || ip->daddr != conf->address || !(conf->flags & CONF_OUTER_4))
		return KIND_FLOW;
	length = ntohs(ip->tot_len);
	/* After options, or in a later fragment, no UDP header is here. */
	left = ip->ihl == 5 && !(ip->frag_off & htons(IP_OFFSET)) && length > sizeof(*ip) ? length - sizeof(*ip) : 0;
	if (!carries_tunnel(&after, ip->protocol, left)) {
		if (!is_udp_to(conf->echo_port, &after, ip->protocol, left))
			return KIND_FLOW;
		pkt->family = 4;
		return KIND_ECHO;
	}
	came = ntohs(ip->id);
	hop = came & ~HOP_IN_GRACE;
	if (ip->version != 4 || !left || ip->frag_off != htons(IP_DF) || !hop || hop > hop_limit(pkt) ||
	    !in_frame(ctx, &start, length, pkt) || ip->saddr == ip->daddr || !is_node_address4(ip->saddr))
		return KIND_FOREIGN_TUNNEL;
	pkt->outer = sizeof(*ip);
	set_hop(pkt, came);
	pkt->prev = (u16)ntohl(ip->saddr);
	*type = inner_type(&after, ip->protocol, left, pkt);
	*c = after;
	if (has_ends_of4(ip, c, *type, pkt)) {
		pkt->family = 4;
		return KIND_ECHO;
	}
	return *type ? KIND_FLOW : KIND_FOREIGN_TUNNEL;
}

static __always_inline enum packet_kind parse_tunnel6(struct xdp_md *ctx, const struct conf *conf, struct cursor *c,
						      __be16 *type, struct packet *pkt)
{
	struct cursor start = *c, after = *c;
	struct ipv6hdr *ip = take(&after, sizeof(*ip));
	struct prefix source = { .length = 32 + 128, .family = 6 };
	u32 length, hop, came;

	if (!ip || !same_address(ip->daddr, conf->address6) || !(conf->flags & CONF_OUTER_6))
		return KIND_FLOW;
	length = ntohs(ip->payload_len);
	if (!carries_tunnel(&after, ip->nexthdr, length)) {
		if (!is_udp_to(conf->echo_port, &after, ip->nexthdr, length))
			return KIND_FLOW;
		pkt->family = 6;
		return KIND_ECHO;
	}
	came = ip->flow_lbl[2] & 0x1f;
	hop = came & ~HOP_IN_GRACE;
	if (ip->version != 6 || !hop || hop > hop_limit(pkt) || !length ||
	    !in_frame(ctx, &start, sizeof(*ip) + length, pkt) || same_address(ip->saddr, ip->daddr))
		return KIND_FOREIGN_TUNNEL;
	__builtin_memcpy(source.address, ip->saddr, sizeof(source.address));
	if (!is_node_address(&source))
		return KIND_FOREIGN_TUNNEL;
	pkt->outer = sizeof(*ip);
	set_hop(pkt, came);
	pkt->prev = node_id6(ip->saddr);
	pkt->prev_family = 6;
	*type = inner_type(&after, ip->nexthdr, length, pkt);
	*c = after;
	if (has_ends_of6(ip, c, *type)) {
		pkt->family = 6;
		return KIND_ECHO;
	}
	return *type ? KIND_FLOW : KIND_FOREIGN_TUNNEL;
}

/* KIND_FLOW: go on at the cursor with a packet of `type`, whether it is a tunnel's or not. */
static __always_inline enum packet_kind parse_tunnel(struct xdp_md *ctx, const struct conf *conf, struct cursor *c,
						     __be16 *type, struct packet *pkt)
{
	if (*type == htons(ETH_P_IP))
		return parse_tunnel4(ctx, conf, c, type, pkt);
	if (IPV6 && *type == htons(ETH_P_IPV6))
		return parse_tunnel6(ctx, conf, c, type, pkt);
	return KIND_FLOW;
}

/* Remove the tunnel's headers: for the kernel, or to forward by MAC. */
static __always_inline bool decapsulate(struct xdp_md *ctx, const struct packet *pkt)
{
	union link_header link;

	return save_link(ctx, &link) && !bpf_xdp_adjust_head(ctx, pkt->outer) &&
	       restore_link(ctx, &link, pkt->l2, pkt->family);
}
