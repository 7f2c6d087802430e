/* SPDX-License-Identifier: GPL-2.0-only */
/* The local socket of a packet's flow. */
#pragma once

#include "chain.h"
#include "cursor.h"
#include "lb.h"
#include "packet.h"

#define TCP_ESTABLISHED 1
#define TCP_TIME_WAIT 6
#define TCP_LISTEN 10

#define NO_SOCKET COUNTERS /* what find_socket() returns for none */

/* Whether an ACK answers one of the listener's SYN cookies. The kernel denies it at once if it sent none recently. */
static __always_inline bool answers_cookie(struct xdp_md *ctx, struct bpf_sock *sk, const struct packet *pkt)
{
	void *data = frame_start(ctx), *end = frame_end(ctx);
	void *ip = data + ((pkt->l2 + pkt->outer) & 0x7f);
	struct tcphdr *tcp = data + (pkt->tcp & HEADERS_END);
	u32 header = pkt->family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);

	if (!pkt->tcp || (void *)(tcp + 1) > end || ip + sizeof(struct ipv6hdr) > end)
		return false;
	return tcp->ack && !tcp->syn && !tcp->rst && !bpf_tcp_check_syncookie(sk, ip, header, tcp, sizeof(*tcp));
}

/*
 * Whether the local TCP socket is the packet's. TIME-WAIT holds no connection, so it must neither catch a new one
 * (SYN), nor hide the live one that a client which reuses its port has at the owner (straight from the router).
 */
static __always_inline enum counter match_tcp_socket(struct xdp_md *ctx, struct bpf_sock *sk, u32 place,
						     const struct packet *pkt)
{
	switch (sk->state) {
	case TCP_LISTEN:
		return place != ABSENT && answers_cookie(ctx, sk, pkt) ? DELIVER_SYN_COOKIE : NO_SOCKET;
	case TCP_TIME_WAIT:
		return !pkt->opens && (pkt->hop || place == 0) ? DELIVER_TIME_WAIT : NO_SOCKET;
	default:
		return DELIVER_SOCKET;
	}
}

/* Fill in the packet's flow and return the size, by which the kernel distinguishes IPv4 and IPv6. */
static __always_inline u32 fill_tuple(struct bpf_sock_tuple *tuple, const struct packet *pkt)
{
	if (!IPV6 || pkt->family == 4) {
		tuple->ipv4.saddr = pkt->client[0];
		tuple->ipv4.daddr = pkt->vip[0];
		tuple->ipv4.sport = pkt->client_port;
		tuple->ipv4.dport = pkt->vip_port;
		return sizeof(tuple->ipv4);
	}
	__builtin_memcpy(tuple->ipv6.saddr, pkt->client, sizeof(pkt->client));
	__builtin_memcpy(tuple->ipv6.daddr, pkt->vip, sizeof(pkt->vip));
	tuple->ipv6.sport = pkt->client_port;
	tuple->ipv6.dport = pkt->vip_port;
	return sizeof(tuple->ipv6);
}

static __always_inline enum counter find_socket(struct xdp_md *ctx, u32 place, const struct packet *pkt)
{
	struct bpf_sock_tuple tuple = {};
	u32 size = fill_tuple(&tuple, pkt);
	enum counter found = NO_SOCKET;
	struct bpf_sock *sk;

	if (pkt->protocol == IPPROTO_TCP) {
		sk = bpf_skc_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
		if (sk) {
			found = match_tcp_socket(ctx, sk, place, pkt);
			bpf_sk_release(sk);
		}
	} else {
		sk = bpf_sk_lookup_udp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
		if (sk) {
			if (sk->state == TCP_ESTABLISHED) /* connected to this very client */
				found = DELIVER_SOCKET;
			bpf_sk_release(sk);
		}
	}
	return found;
}
