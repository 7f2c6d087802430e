/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The echo: another node asks whether this node's data path lives, and the program answers, not the agent.
 *
 *	Ethernet [VLAN] | [tunnel] | IPv4 or IPv6 | UDP, port conf.echo_port | struct echo
 *
 * A question comes as other packets do, or as a packet is forwarded: by MAC with a marker, or in a tunnel between the
 * same two addresses. The answer goes back by the same interface without either. It is as large as the question and
 * goes to a node's address only, so nothing is amplified and there is no rate limit: with one, whoever floods this node
 * with questions would silence it for the others.
 *
 * Only questions are answered: two programs must never echo each other. Whatever is not exactly a question of this
 * cluster passes to the kernel: answers to the agent's socket, which names the questions of another cluster.
 */
#pragma once

#include "cursor.h"
#include "decap.h"
#include "encap.h"
#include "ethernet.h"
#include "icmp_error.h"
#include "lb.h"
#include "maps.h"
#include "packet.h"
#include "service.h"

#define ECHO_DATAGRAM (sizeof(struct udphdr) + sizeof(struct echo))

static __always_inline u8 encap_of(const struct packet *pkt)
{
	return pkt->outer ? ENCAP_TUNNEL : pkt->hop ? ENCAP_MARKER : ENCAP_PLAIN;
}

/* Return the MAC to answer to: a marker takes the place of the asker's. */
static __always_inline const u8 *asker_mac(const struct ethhdr *eth, const struct echo *echo, const struct packet *pkt)
{
	return encap_of(pkt) == ENCAP_MARKER ? echo->back : eth->h_source;
}

/* Whether a datagram of ECHO_DATAGRAM bytes is a question, and came as it says. A group's MAC: many answers. */
static __always_inline bool is_question(const struct conf *conf, const struct ethhdr *eth, const struct udphdr *udp,
					const struct packet *pkt)
{
	const struct echo *echo = (const void *)(udp + 1);

	return udp->dest == conf->echo_port && udp->len == htons(ECHO_DATAGRAM) && echo->magic == htonl(ECHO_MAGIC) &&
	       echo->kind == ECHO_QUESTION && echo->version == htons(ECHO_VERSION) &&
	       echo->cluster == htonl(conf->cluster) && echo->encap == encap_of(pkt) &&
	       !(*asker_mac(eth, echo, pkt) & 1);
}

/* An IPv4 packet to conf.address, for which the tunnel's length is exact if it came in one. */
static __always_inline bool is_question4(struct xdp_md *ctx, const struct conf *conf, const struct packet *pkt)
{
	const struct ethhdr *eth = frame_start(ctx);
	const struct iphdr *ip = (const void *)eth + ((pkt->l2 + pkt->outer) & 0x7f);
	const struct udphdr *udp = (const void *)(ip + 1);
	const u32 length = sizeof(*ip) + ECHO_DATAGRAM;

	return (void *)(eth + 1) <= frame_end(ctx) && (void *)udp + ECHO_DATAGRAM <= frame_end(ctx) &&
	       *(const u8 *)ip == 0x45 && ip->tot_len == htons(length) && !(ip->frag_off & htons(IP_MF | IP_OFFSET)) &&
	       ip->protocol == IPPROTO_UDP && (!pkt->outer || pkt->length == length) && ip->saddr != ip->daddr &&
	       is_question(conf, eth, udp, pkt) && is_node_address4(ip->saddr);
}

static __always_inline bool is_question6(struct xdp_md *ctx, const struct conf *conf, const struct packet *pkt)
{
	const struct ethhdr *eth = frame_start(ctx);
	const struct ipv6hdr *ip = (const void *)eth + ((pkt->l2 + pkt->outer) & 0x7f);
	const struct udphdr *udp = (const void *)(ip + 1);
	const u32 length = sizeof(*ip) + ECHO_DATAGRAM;
	struct prefix source = { .length = 32 + 128, .family = 6 };

	if ((void *)(eth + 1) > frame_end(ctx) || (void *)udp + ECHO_DATAGRAM > frame_end(ctx) || ip->version != 6 ||
	    ip->payload_len != htons(ECHO_DATAGRAM) || ip->nexthdr != IPPROTO_UDP ||
	    (pkt->outer && pkt->length != length) || same_address(ip->saddr, ip->daddr) ||
	    !is_question(conf, eth, udp, pkt))
		return false;
	__builtin_memcpy(source.address, ip->saddr, sizeof(source.address));
	return is_node_address(&source);
}

/* The coarse clock may be a tick behind the agent's. */
static __always_inline u32 heartbeat_age_ms(u64 heartbeat_ns)
{
	u64 now = bpf_ktime_get_coarse_ns(), age_ms;

	if (!heartbeat_ns)
		return ECHO_NEVER;
	age_ms = now > heartbeat_ns ? (now - heartbeat_ns) / 1000000 : 0;
	return age_ms < ECHO_NEVER ? age_ms : ECHO_NEVER - 1;
}

static __always_inline void write_echo(const struct conf *conf, const struct echo_state *state, struct echo *echo)
{
	u32 bank = active_bank(conf), flags = ECHO_FLAG_DATA_PATH | (state->ready ? ECHO_FLAG_READY : 0);

	*(__be32 *)&echo->kind = htonl(ECHO_ANSWER << 24 | flags << 16 | ECHO_VERSION);
	echo->heartbeat_age_ms = htonl(heartbeat_age_ms(state->heartbeat_ns));
	echo->boot = cpu_to_be64(state->boot);
	echo->epoch[0] = htonl(conf->epoch[bank]);
	echo->epoch[1] = conf->two_banks ? htonl(conf->epoch[bank ^ 1]) : 0;
	echo->view_digest = htonl(state->view_digest);
	echo->tables_digest = htonl(state->tables_digest);
}

/* Turn MACs and ports round; `udp` is followed by the question. In words, as the checksum reads them again. */
static __always_inline void write_answer(const struct conf *conf, const struct uplink *uplink,
					 const struct echo_state *state, struct ethhdr *eth, struct udphdr *udp,
					 const struct packet *pkt)
{
	struct echo *echo = (void *)(udp + 1);
	__be32 *words = (__be32 *)udp;

	copy_mac(eth->h_dest, asker_mac(eth, echo, pkt));
	copy_mac(eth->h_source, uplink->mac);
	words[0] = words[0] << 16 | words[0] >> 16;
	words[1] = htonl(ECHO_DATAGRAM << 16);
	write_echo(conf, state, echo);
}

/* Over IPv4, UDP may be without a checksum (RFC 768). */
static __always_inline bool write_answer4(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
					  const struct echo_state *state, const struct packet *pkt)
{
	struct ethhdr *eth = frame_start(ctx);
	struct iphdr *ip = (void *)eth + (pkt->l2 & 0x1f);
	struct udphdr *udp = (void *)(ip + 1);
	__be32 asker;

	if ((void *)(eth + 1) > frame_end(ctx) || (void *)udp + ECHO_DATAGRAM > frame_end(ctx))
		return false;
	asker = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = asker;
	ip->ttl = 64;
	ip->check = 0;
	ip->check = header_checksum(ip);
	write_answer(conf, uplink, state, eth, udp, pkt);
	return true;
}

/* Return the Internet checksum of words. bpf_csum_diff() costs 10 ns more: it waits for all that was just written. */
static __always_inline __sum16 checksum_of(const __be32 *words, u32 count, u64 sum)
{
	u32 i;

#pragma unroll
	for (i = 0; i < count; i++)
		sum += words[i];
	sum = (u32)sum + (sum >> 32);
	return fold_checksum((sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32));
}

/* Over IPv6, UDP needs its checksum (RFC 8200 section 8.1), in which 0 is written as 0xffff. */
static __always_inline bool write_answer6(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
					  const struct echo_state *state, const struct packet *pkt)
{
	struct ethhdr *eth = frame_start(ctx);
	struct ipv6hdr *ip = (void *)eth + (pkt->l2 & 0x1f);
	struct udphdr *udp = (void *)(ip + 1);
	const __be32 *pseudo = (const __be32 *)udp - 8; /* the addresses of its pseudo header come before UDP */
	__sum16 check;
	__be32 asker[4];

	if ((void *)(eth + 1) > frame_end(ctx) || (void *)udp + ECHO_DATAGRAM > frame_end(ctx))
		return false;
	__builtin_memcpy(asker, ip->saddr, sizeof(asker));
	__builtin_memcpy(ip->saddr, ip->daddr, sizeof(asker));
	__builtin_memcpy(ip->daddr, asker, sizeof(asker));
	ip->hop_limit = 64;
	write_answer(conf, uplink, state, eth, udp, pkt);
	check = checksum_of(pseudo, 8 + ECHO_DATAGRAM / 4, htonl(ECHO_DATAGRAM) + htonl(IPPROTO_UDP));
	udp->check = check ?: 0xffff;
	return true;
}

/* Turn a question's frame into the answer. Return false, with nothing changed, if it is none. */
static __always_inline bool reply_echo(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
				       const struct packet *pkt)
{
	bool six = IPV6 && pkt->family == 6;
	u32 zero = 0;
	struct echo_state *state = echo_state.lookup(&zero);

	if (!state) /* never: it is an array */
		return false;
	if (!(six ? is_question6(ctx, conf, pkt) : is_question4(ctx, conf, pkt)))
		return false;
	if (pkt->outer && !decapsulate(ctx, pkt))
		return false; /* never: headers are only removed */
	return six ? write_answer6(ctx, conf, uplink, state, pkt) : write_answer4(ctx, conf, uplink, state, pkt);
}
