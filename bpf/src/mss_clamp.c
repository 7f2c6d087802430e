/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The tc egress program: lowers the MSS in the SYN-ACKs of services whose packets are forwarded in tunnels.
 *
 * A client's full-size packet does not fit into a tunnel. An ICMP error reports that, but not every client receives
 * ICMP; with a smaller MSS (RFC 9293 section 3.7.1) the client never sends such a packet. The owner's kernel writes the
 * SYN-ACKs, and XDP sees no packets that leave, so this is a program of its own.
 *
 * Every packet that leaves passes here, so what is no SYN-ACK goes on after a few loads, without a lookup. The option
 * is never added: a SYN-ACK without it means 536 bytes (1220 with IPv6), which always fit.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/tcp.h>

#include "lb.h"

/* The largest MSS that a service may advertise, in host order; port 0 is any port. Made as the maps of maps.h are. */
BPF_TABLE_PINNED("hash", struct service_key, u32, mss, SERVICES, PINS "/mss");

#define TC_ACT_UNSPEC (-1)   /* go on with the next filter, if there is one */
#define TAGS 2               /* VLAN tags that the frame itself may have; the skb may hold one more */
#define FRAGMENT_MASK 0x3fff /* IPv4: the fragment's offset, and "more fragments" */

enum option { END_OF_LIST = 0, NO_OPERATION = 1, MAXIMUM_SEGMENT_SIZE = 2 };

#define OPTIONS_MAX 40 /* bytes, and so options, of a TCP header */
#define MSS_LENGTH 4

struct option_head {
	u8 kind, length;
};

/* Lower the MSS at that offset to the limit, and update the checksum. */
static __always_inline void lower_mss(struct __sk_buff *skb, u32 tcp, u32 at, u32 limit)
{
	__be16 before, after = htons(limit), from, to;

	if (bpf_skb_load_bytes(skb, at, &before, sizeof(before)) || ntohs(before) <= limit)
		return;
	/* The sum is over the header's 16-bit words: a value across two of them counts with its bytes swapped. */
	from = (at - tcp) & 1 ? __builtin_bswap16(before) : before;
	to = (at - tcp) & 1 ? __builtin_bswap16(after) : after;
	if (!bpf_l4_csum_replace(skb, tcp + __builtin_offsetof(struct tcphdr, check), from, to, sizeof(to)))
		bpf_skb_store_bytes(skb, at, &after, sizeof(after), 0);
}

/* Lower every MSS option in `size` bytes of options: receivers differ in which of two they use. */
static __always_inline void lower_options(struct __sk_buff *skb, u32 tcp, u32 size, u32 limit)
{
	u32 first = tcp + sizeof(struct tcphdr), at = 0, length;
	struct option_head head;

	for (int i = 0; i < OPTIONS_MAX; i++) {
		/* It is less anyway; with the bound, the verifier walks the rest once for all paths up to here. */
		asm volatile("%0 &= 63" : "+r"(at));
		if (at + sizeof(head) > size || bpf_skb_load_bytes(skb, first + at, &head, sizeof(head)) ||
		    head.kind == END_OF_LIST)
			return;
		length = head.kind == NO_OPERATION ? 1 : head.length;
		if ((length < sizeof(head) && head.kind != NO_OPERATION) || at + length > size)
			return;
		if (head.kind == MAXIMUM_SEGMENT_SIZE && length == MSS_LENGTH)
			lower_mss(skb, tcp, first + at + sizeof(head), limit);
		at += length;
	}
}

static __always_inline u32 *find_limit(struct service_key *key)
{
	u32 *limit = mss.lookup(key);

	if (limit)
		return limit;
	key->port = 0; /* any port */
	return mss.lookup(key);
}

static __always_inline bool is_vlan(__be16 type)
{
	return type == htons(ETH_P_8021Q) || type == htons(ETH_P_8021AD);
}

/* Return the TCP header's offset in the frame, or 0 if there is none; fill in the source address as the key's VIP. */
static __always_inline u32 find_tcp(void *data, void *end, struct service_key *key)
{
	struct ethhdr *eth = data;
	u32 at = sizeof(*eth);
	struct ipv6hdr *ip6;
	struct iphdr *ip;
	__be16 type;

	if ((void *)(eth + 1) > end)
		return 0;
	type = eth->h_proto;
	for (int i = 0; i < TAGS && is_vlan(type); i++) {
		__be16 *tag = data + at;

		if ((void *)(tag + 2) > end)
			return 0;
		type = tag[1];
		at += 2 * sizeof(*tag);
	}
	key->protocol = IPPROTO_TCP;
	if (type == htons(ETH_P_IP)) {
		ip = data + at;
		if ((void *)(ip + 1) > end || ip->protocol != IPPROTO_TCP || ip->ihl < 5 ||
		    ip->frag_off & htons(FRAGMENT_MASK))
			return 0;
		key->vip[0] = ip->saddr;
		key->family = 4;
		return at + ip->ihl * 4;
	}
	ip6 = data + at;
	if (type != htons(ETH_P_IPV6) || (void *)(ip6 + 1) > end || ip6->nexthdr != IPPROTO_TCP)
		return 0;
	__builtin_memcpy(key->vip, &ip6->saddr, sizeof(key->vip));
	key->family = 6;
	return at + sizeof(*ip6);
}

/* Reads headers in the frame's linear part only: the kernel's TCP always writes them there. */
int PROGRAM(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct service_key key = {};
	u32 *limit, at = find_tcp(data, end, &key), size;
	struct tcphdr *tcp = data + at;

	if (!at || (void *)(tcp + 1) > end || !tcp->syn || !tcp->ack)
		return TC_ACT_UNSPEC;
	key.port = tcp->source;
	size = tcp->doff * 4 - sizeof(*tcp);
	limit = find_limit(&key);
	if (limit && size <= OPTIONS_MAX)
		lower_options(skb, at, size, *limit);
	return TC_ACT_UNSPEC;
}
