/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tunnels between nodes: IP in IP (RFC 2003, RFC 2473, RFC 4213) and GUE variant 1 (draft-ietf-intarea-gue section
 * 4: the IP packet follows UDP at once, its version tells it from variant 0). This file reads their headers; encap.h
 * writes them.
 *
 *	Ethernet [VLAN] | IPv4 (ID = hop, DF)            | [UDP, port 6080] | the client's packet
 *	                | IPv6 (flow label ends in hop)  |
 *
 * A header is opened only if all of it is as a node of the cluster writes it, from an address of a node, to this
 * node, and around a packet for a service. Who can forge such sources can send to the VIP anyway, but chooses the
 * node: the edge must filter node addresses.
 */

#define GUE_PORT 6080

struct inner_version {
	u8 rest : 4, version : 4;
};

static __always_inline bool of_a_node(struct prefix *source)
{
	return node_prefixes.lookup(source);
}

/*
 * What follows the outer IP header, `left` bytes: its type (an EtherType) if it is the cluster's, else 0. Moves the
 * cursor there, past UDP if there is one.
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

/* False: not a tunnel at all, but the node's own traffic. `left` bytes follow the outer IP header. */
static __always_inline bool carries_tunnel(const struct cursor *c, u8 protocol, u32 left)
{
	struct udphdr *udp = c->at;

	if (protocol == IPPROTO_UDP)
		return (void *)(udp + 1) <= c->end && left >= sizeof(*udp) && udp->dest == htons(GUE_PORT);
	return protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6;
}

static __always_inline enum kind open_ipv4(struct xdp_md *ctx, const struct conf *conf, struct cursor *c, __be16 *type,
					   struct packet *pkt)
{
	struct cursor start = *c, after = *c;
	struct iphdr *ip = take(&after, sizeof(*ip));
	struct prefix source = { .length = 32 + 32, .family = 4 };
	u32 length, left, hop;

	if (!ip || ip->daddr != conf->address || !(conf->flags & CONF_OUTER_4))
		return FLOW;
	length = ntohs(ip->tot_len);
	/* Behind options, or in a fragment but the first, no UDP header stands here. */
	left = ip->ihl == 5 && !(ip->frag_off & htons(IP_OFFSET)) && length > sizeof(*ip) ? length - sizeof(*ip) : 0;
	if (!carries_tunnel(&after, ip->protocol, left))
		return FLOW;
	hop = ntohs(ip->id);
	if (ip->version != 4 || !left || ip->frag_off != htons(IP_DF) || !hop || hop > CHAIN + 1 ||
	    !in_frame(ctx, &start, length) || ip->saddr == ip->daddr)
		return FOREIGN;
	source.address[0] = ip->saddr;
	if (!of_a_node(&source))
		return FOREIGN;
	pkt->outer = sizeof(*ip);
	pkt->hop = hop;
	pkt->prev = (u16)ntohl(ip->saddr);
	*type = inner_type(&after, ip->protocol, left, pkt);
	*c = after;
	return *type ? FLOW : FOREIGN;
}

static __always_inline enum kind open_ipv6(struct xdp_md *ctx, const struct conf *conf, struct cursor *c, __be16 *type,
					   struct packet *pkt)
{
	struct cursor start = *c, after = *c;
	struct ipv6hdr *ip = take(&after, sizeof(*ip));
	struct prefix source = { .length = 32 + 128, .family = 6 };
	u32 length, hop;

	if (!ip || !same_address(ip->daddr, conf->address6) || !(conf->flags & CONF_OUTER_6))
		return FLOW;
	length = ntohs(ip->payload_len);
	if (!carries_tunnel(&after, ip->nexthdr, length))
		return FLOW;
	hop = ip->flow_lbl[2] & 0xf;
	if (ip->version != 6 || !hop || hop > CHAIN + 1 || !length || !in_frame(ctx, &start, sizeof(*ip) + length) ||
	    same_address(ip->saddr, ip->daddr))
		return FOREIGN;
	__builtin_memcpy(source.address, ip->saddr, sizeof(source.address));
	if (!of_a_node(&source))
		return FOREIGN;
	pkt->outer = sizeof(*ip);
	pkt->hop = hop;
	pkt->prev = name6(ip->saddr);
	pkt->prev_family = 6;
	*type = inner_type(&after, ip->nexthdr, length, pkt);
	*c = after;
	return *type ? FLOW : FOREIGN;
}

/* FLOW: go on at the cursor, with what `type` says, whether a tunnel was opened or not. */
static __always_inline enum kind open_tunnel(struct xdp_md *ctx, const struct conf *conf, struct cursor *c,
					     __be16 *type, struct packet *pkt)
{
	if (*type == htons(ETH_P_IP))
		return open_ipv4(ctx, conf, c, type, pkt);
	if (IPV6 && *type == htons(ETH_P_IPV6))
		return open_ipv6(ctx, conf, c, type, pkt);
	return FLOW;
}
