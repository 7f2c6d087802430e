/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Reads a frame into a struct packet: whose it is, which flow it belongs to, how it came here.
 * Decides nothing but what kind of packet it is; decap.h reads a tunnel's headers, ipv4.h and ipv6.h what an ICMP error
 * quotes.
 */

struct vlan_tag {
	__be16 tag;
	__be16 next; /* type of what follows */
};

static __always_inline bool same_mac(const void *a, const void *b)
{
	const u16 *x = a, *y = b;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]));
}

/*
 * The marker of forward l2: source MAC 02:4c:42:HH:TT:TT (locally administered, then "LB"), hop and tag of
 * the sender. Anything else, hop 0 included, came straight from the router.
 */
static __always_inline void parse_marker(const struct ethhdr *eth, struct packet *pkt)
{
	const u8 *source = eth->h_source;

	if (source[0] == 0x02 && source[1] == 0x4c && source[2] == 0x42) {
		pkt->hop = source[3];
		pkt->prev = source[4] << 8 | source[5];
	}
}

/* Up to two tags (802.1Q, 802.1ad). Moves the cursor past them and returns the type of what follows. */
static __always_inline __be16 skip_tags(struct cursor *c, __be16 type, struct packet *pkt)
{
	struct vlan_tag *tag;
	int i;

#pragma unroll
	for (i = 0; i < 2; i++) {
		if (type != htons(ETH_P_8021Q) && type != htons(ETH_P_8021AD))
			break;
		tag = take(c, sizeof(*tag));
		if (!tag)
			return 0;
		type = tag->next;
		pkt->l2 += sizeof(*tag);
	}
	return type;
}

static __always_inline enum kind parse_tcp(struct xdp_md *ctx, struct cursor *c, u32 length, struct packet *pkt)
{
	struct tcphdr *tcp = take(c, sizeof(*tcp));

	if (!tcp || tcp->doff * 4 < sizeof(*tcp) || tcp->doff * 4 > length)
		return MALFORMED;
	pkt->tcp = (void *)tcp - (void *)(long)ctx->data;
	pkt->client_port = tcp->source;
	pkt->vip_port = tcp->dest;
	pkt->opens = tcp->syn && !tcp->ack;
	return FLOW;
}

static __always_inline enum kind parse_udp(struct cursor *c, u32 length, struct packet *pkt)
{
	struct udphdr *udp = take(c, sizeof(*udp));

	if (!udp || ntohs(udp->len) < sizeof(*udp) || ntohs(udp->len) > length)
		return MALFORMED;
	pkt->client_port = udp->source;
	pkt->vip_port = udp->dest;
	pkt->opens = true;
	return FLOW;
}

static __always_inline bool denied_prefix(const struct conf *conf, const struct packet *pkt)
{
	struct prefix key = { .length = 32 + 128, .family = pkt->family };

	if (!(conf->flags & CONF_DENY))
		return false;
	__builtin_memcpy(key.address, pkt->client, sizeof(key.address));
	return denied.lookup(&key);
}

#include "ipv4.h"
#include "ipv6.h"
#include "decap.h"

/* Most frames: IPv4 without a tag, and surely no tunnel's. `c` stands after Ethernet. */
static __always_inline bool is_plain(const struct conf *conf, const struct cursor *c, __be16 type)
{
	struct iphdr *ip = c->at;

	return type == htons(ETH_P_IP) && (void *)(ip + 1) <= c->end &&
	       (ip->daddr != conf->address || ip->protocol == IPPROTO_TCP);
}

/* The same of IPv6. */
static __always_inline bool is_plain6(const struct conf *conf, const struct cursor *c, __be16 type)
{
	struct ipv6hdr *ip = c->at;

	return type == htons(ETH_P_IPV6) && (void *)(ip + 1) <= c->end &&
	       (ip->daddr[3] != conf->address6[3] || ip->nexthdr == IPPROTO_TCP);
}

/* All other frames: tags, tunnels, IPv6. */
static __always_inline enum kind parse_any(struct xdp_md *ctx, struct cursor *c, const struct conf *conf, __be16 type,
					   struct packet *pkt)
{
	enum kind kind;

	if (type == htons(ETH_P_8021Q) || type == htons(ETH_P_8021AD)) {
		type = skip_tags(c, type, pkt) ^ conf->zero;
		pkt->l2 ^= conf->zero;
		forget_place(ctx, c);
	}
	kind = open_tunnel(ctx, conf, c, &type, pkt);
	if (kind != FLOW)
		return kind;
	if (pkt->outer) {
		forget(conf, pkt);
		type ^= conf->zero;
		forget_place(ctx, c);
	}
	if (type == htons(ETH_P_IP))
		kind = parse_ipv4(ctx, c, conf, pkt);
	else if (IPV6 && type == htons(ETH_P_IPV6))
		kind = parse_ipv6(ctx, c, conf, pkt);
	else
		return OTHER;
	forget(conf, pkt);
	return kind;
}
