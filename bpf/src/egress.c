/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The tc egress program: what leaves this node from its own kernel. XDP sees no packets that leave, and what the XDP
 * program forwards does not pass here.
 *
 * It drops what only the XDP program may send to other nodes: markers, and tunnels. A node opens a tunnel because its
 * source is the address of a node, which any process of that node has: it could open connections with forged clients.
 *
 * It lowers the MSS in the SYN-ACKs of services whose packets are forwarded in tunnels. A client's full-size packet
 * does not fit into a tunnel. An ICMP error reports that, but not every client receives ICMP; with a smaller MSS (RFC
 * 9293 section 3.7.1) the client never sends such a packet. The owner's kernel writes the SYN-ACKs.
 *
 * Every packet that leaves passes here, so what is neither goes on after a few loads, without a lookup. The MSS option
 * is never added: a SYN-ACK without it means 536 bytes (1220 with IPv6), which always fit.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/tcp.h>
#include <uapi/linux/udp.h>

#include "lb.h"
#include "maps.h"

/* The largest MSS that a service may advertise, in host order; port 0 is any port. Made as the maps of maps.h are. */
BPF_TABLE_PINNED("hash", struct service_key, u32, mss, SERVICES, PINS "/mss");

#define TC_ACT_UNSPEC (-1)   /* go on with the next filter, if there is one */
#define TC_ACT_SHOT 2        /* drop */
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

static __always_inline bool has_marker(const struct ethhdr *eth)
{
	return (*(const u32 *)eth->h_source & MARKER_MASK) == MARKER;
}

static __always_inline bool is_vlan(__be16 type)
{
	return type == htons(ETH_P_8021Q) || type == htons(ETH_P_8021AD);
}

/* Where a packet's IP header is in the frame, and what follows it. Addresses are read for the few that need them. */
struct ip_header {
	u32 at, next;
	u8 family, protocol;
};

/* Return false without an IP header, or for a fragment, which neither a SYN-ACK nor a tunnel of ours is. */
static __always_inline bool find_ip(void *data, void *end, struct ip_header *header)
{
	struct ethhdr *eth = data;
	u32 at = sizeof(*eth);
	struct ipv6hdr *ip6;
	struct iphdr *ip;
	__be16 type = eth->h_proto;

	for (int i = 0; i < TAGS && is_vlan(type); i++) {
		__be16 *tag = data + at;

		if ((void *)(tag + 2) > end)
			return false;
		type = tag[1];
		at += 2 * sizeof(*tag);
	}
	header->at = at;
	if (type == htons(ETH_P_IP)) {
		ip = data + at;
		if ((void *)(ip + 1) > end || ip->ihl < 5 || ip->frag_off & htons(FRAGMENT_MASK))
			return false;
		header->family = 4;
		header->protocol = ip->protocol;
		header->next = at + ip->ihl * 4;
		return true;
	}
	ip6 = data + at;
	if (type != htons(ETH_P_IPV6) || (void *)(ip6 + 1) > end)
		return false;
	header->family = 6;
	header->protocol = ip6->nexthdr;
	header->next = at + sizeof(*ip6);
	return true;
}

/* Copy the source or the destination (`source` false) to four words; false if the frame is too short. */
static __always_inline bool read_address(struct __sk_buff *skb, const struct ip_header *header, bool source, void *to)
{
	u32 at = header->at +
		 (source ? __builtin_offsetof(struct iphdr, saddr) : __builtin_offsetof(struct iphdr, daddr));

	if (header->family == 4)
		return !bpf_skb_load_bytes(skb, at, to, 4);
	at = header->at +
	     (source ? __builtin_offsetof(struct ipv6hdr, saddr) : __builtin_offsetof(struct ipv6hdr, daddr));
	return !bpf_skb_load_bytes(skb, at, to, 16);
}

static __always_inline bool is_to_node(struct __sk_buff *skb, const struct ip_header *header)
{
	struct prefix key = { .length = 32 + (header->family == 4 ? 32 : 128), .family = header->family };

	return read_address(skb, header, false, key.address) && node_prefixes.lookup(&key);
}

/* Whether the packet at that offset is for a VIP of this node. */
static __always_inline bool is_for_vip(struct __sk_buff *skb, u32 at)
{
	struct service_key vip = {}; /* without protocol and port: the VIP itself */
	struct ipv6hdr ip6;
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
		return false;
	if (ip.version == 4) {
		vip.vip[0] = ip.daddr;
		vip.family = 4;
	} else {
		if (bpf_skb_load_bytes(skb, at, &ip6, sizeof(ip6)))
			return false;
		__builtin_memcpy(vip.vip, &ip6.daddr, sizeof(vip.vip));
		vip.family = 6;
	}
	return services.lookup(&vip);
}

/* Of the UDP header at that offset. The load costs 15 ns, and the kernel nearly always writes headers in one piece. */
static __always_inline __be16 udp_destination(struct __sk_buff *skb, void *data, void *end, u32 at)
{
	struct udphdr *udp = data + at, copy = {};

	if ((void *)(udp + 1) <= end)
		return udp->dest;
	bpf_skb_load_bytes(skb, at, &copy, sizeof(copy));
	return copy.dest;
}

/*
 * Whether this is a tunnel to another node as the XDP program makes them. Any process can send UDP, and no one else has
 * a use for that port there. IP in IP takes a raw socket, and may be someone's overlay network: only a packet for a
 * VIP makes it ours.
 */
static __always_inline bool is_tunnel(struct __sk_buff *skb, void *data, void *end, const struct ip_header *header)
{
	switch (header->protocol) {
	case IPPROTO_UDP:
		return udp_destination(skb, data, end, header->next) == htons(GUE_PORT) && is_to_node(skb, header);
	case IPPROTO_IPIP:
	case IPPROTO_IPV6:
		return is_to_node(skb, header) && is_for_vip(skb, header->next);
	default:
		return false;
	}
}

static __always_inline int drop(void)
{
	u32 no_service = 0;
	struct stats *counters = stats.lookup(&no_service);

	if (counters)
		counters->count[DROP_FORGED]++;
	return TC_ACT_SHOT;
}

/* Reads the TCP header in the frame's linear part only: the kernel always writes it there. */
int PROGRAM(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct service_key key = {};
	struct ethhdr *eth = data;
	struct ip_header header;
	struct tcphdr *tcp;
	u32 *limit, size;

	if ((void *)(eth + 1) > end)
		return TC_ACT_UNSPEC;
	if (has_marker(eth))
		return drop();
	if (!find_ip(data, end, &header))
		return TC_ACT_UNSPEC;
	if (header.protocol != IPPROTO_TCP)
		return is_tunnel(skb, data, end, &header) ? drop() : TC_ACT_UNSPEC;
	tcp = data + header.next;
	if ((void *)(tcp + 1) > end || !tcp->syn || !tcp->ack)
		return TC_ACT_UNSPEC;
	size = tcp->doff * 4 - sizeof(*tcp);
	key.port = tcp->source;
	key.protocol = IPPROTO_TCP;
	key.family = header.family;
	if (!read_address(skb, &header, true, key.vip))
		return TC_ACT_UNSPEC;
	limit = find_limit(&key);
	if (limit && size <= OPTIONS_MAX)
		lower_options(skb, header.next, size, *limit);
	return TC_ACT_UNSPEC;
}
