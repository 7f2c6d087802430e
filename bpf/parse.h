/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Reads a frame into a struct packet: whose it is, which flow it belongs to, how it came here.
 * Decides nothing but what kind of packet it is; icmp.h reads what an ICMP error quotes.
 */

#define IP_MF 0x2000
#define IP_OFFSET 0x1fff

static __always_inline bool same_mac(const void *a, const void *b)
{
	const u16 *x = a, *y = b;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]));
}

/*
 * The marker of forward l2: source MAC 02:4c:42:HH:TT:TT (locally administered, then "LB"), hop and tag of
 * the sender. Anything else, hop 0 included, came straight from the router.
 */
static __always_inline void parse_marker(struct packet *pkt)
{
	const u8 *source = pkt->eth->h_source;

	if (source[0] == 0x02 && source[1] == 0x4c && source[2] == 0x42) {
		pkt->hop = source[3];
		pkt->prev = source[4] << 8 | source[5];
	}
}

#include "icmp.h"

static __always_inline enum kind parse_tcp(struct cursor *c, u32 length, struct packet *pkt)
{
	struct tcphdr *tcp = take(c, sizeof(*tcp));

	if (!tcp || tcp->doff * 4 < sizeof(*tcp) || tcp->doff * 4 > length)
		return MALFORMED;
	pkt->tcp = tcp;
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

static __always_inline enum kind parse_ipv4(struct cursor *c, const struct conf *conf, struct packet *pkt)
{
	struct iphdr *ip = take(c, sizeof(*ip));
	u32 header, length;

	if (!ip || !may_be_vip(conf, ip->daddr))
		return OTHER;
	pkt->ip = ip;
	pkt->client[0] = ip->saddr;
	pkt->vip[0] = ip->daddr;
	pkt->family = 4;
	pkt->protocol = ip->protocol;

	header = ip->ihl * 4;
	length = ntohs(ip->tot_len);
	if (ip->version != 4 || header < sizeof(*ip) || length < header || (void *)ip + length > c->end)
		return MALFORMED;
	if (ip->frag_off & htons(IP_MF | IP_OFFSET))
		return FRAGMENT;
	c->at = (void *)ip + header;
	length -= header;

	switch (ip->protocol) {
	case IPPROTO_TCP:
		return parse_tcp(c, length, pkt);
	case IPPROTO_UDP:
		return parse_udp(c, length, pkt);
	case IPPROTO_ICMP:
		return parse_icmp(c, pkt);
	default:
		return OTHER;
	}
}

static __always_inline enum kind parse(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
				       struct packet *pkt)
{
	struct cursor c = { (void *)(long)ctx->data, (void *)(long)ctx->data_end };

	pkt->eth = take(&c, sizeof(*pkt->eth));
	if (!pkt->eth)
		return OTHER;
	if (!same_mac(pkt->eth->h_dest, uplink->mac))
		return OTHER_MAC;
	parse_marker(pkt);

	switch (pkt->eth->h_proto) {
	case htons(ETH_P_IP):
		return parse_ipv4(&c, conf, pkt);
	default:
		return OTHER;
	}
}
