/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * ICMP to a VIP (RFC 792). An error goes where the flow it quotes goes: path-MTU discovery must reach the
 * server that holds the connection. Echo is answered by the ingress itself.
 */

#define ICMP_DEST_UNREACH 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12

/* An error quotes the IP header of the packet it is about and at least 8 bytes more: the ports are in those. */
struct ports {
	__be16 source, dest;
};

static __always_inline enum kind parse_icmp(struct cursor *c, struct packet *pkt)
{
	struct icmphdr *icmp = take(c, sizeof(*icmp));
	struct iphdr *quoted = take(c, sizeof(*quoted));
	struct ports *ports;

	if (!icmp || !quoted)
		return OTHER;
	if (icmp->type != ICMP_DEST_UNREACH && icmp->type != ICMP_TIME_EXCEEDED && icmp->type != ICMP_PARAMETERPROB)
		return OTHER;
	if (quoted->version != 4 || quoted->ihl * 4 < sizeof(*quoted) || quoted->saddr != pkt->vip[0] ||
	    (quoted->frag_off & htons(IP_OFFSET)))
		return OTHER;
	c->at = (void *)quoted + quoted->ihl * 4;
	ports = take(c, sizeof(*ports));
	if (!ports)
		return OTHER;

	/* The quoted packet went from the VIP to the client: the flow is its reverse. */
	pkt->client[0] = quoted->daddr;
	pkt->client_port = ports->dest;
	pkt->vip_port = ports->source;
	pkt->protocol = quoted->protocol;
	pkt->opens = quoted->protocol == IPPROTO_UDP;
	pkt->icmp_error = true;
	return FLOW;
}
