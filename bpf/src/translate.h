/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Rewrites a packet of a session: addresses, ports and checksums, TTL, MACs and VLAN tag; and sends it. A session's
 * record holds how the checksums change (RFC 1624), so nothing is summed here.
 */
#pragma once

#include "cursor.h"
#include "ethernet.h"
#include "forward.h"
#include "lb.h"
#include "nat_layout.h"
#include "packet.h"
#include "session.h"

#if NAT
/* Return a checksum to which a difference is added. */
static __always_inline u16 changed_checksum(u16 check, u16 difference)
{
	u32 sum = (u16)~check + (u32)difference;

	return ~((sum & 0xffff) + (sum >> 16));
}

static __always_inline const struct nat_hop *find_hop(const struct nat_conf *nat, const struct session *session,
						      bool reply)
{
	u32 index = session->backend_index;
	const struct backend *backend;

	if (reply) {
		index = nat->hops[session->family == 6];
	} else {
		backend = backends.lookup(&index);
		index = backend ? backend->hop : 0;
	}
	return index ? nat_hops.lookup(&index) : NULL;
}

/* Ports and checksum of the transport header, which begins at `header`; return false if it is not in the frame. */
static __always_inline bool rewrite_transport(void *header, const void *end, const struct session *session, bool reply)
{
	u16 difference = session->sums[reply ? 3 : 1];
	struct tcphdr *tcp = header;
	struct udphdr *udp = header;

	if ((void *)(udp + 1) > end)
		return false;
	udp->source = reply ? session->vip_port : session->nat_port;
	udp->dest = reply ? session->client_port : session->backend_port;
	if (session->protocol == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > end)
			return false;
		tcp->check = changed_checksum(tcp->check, difference);
	} else if (udp->check) { /* 0 is none (RFC 768), and as a sum it is written as 0xffff */
		udp->check = changed_checksum(udp->check, difference) ?: 0xffff;
	}
	return true;
}

static __always_inline bool rewrite4(void *header, const void *end, const struct session4 *record, bool reply)
{
	struct iphdr *ip = header;

	if ((void *)(ip + 1) > end)
		return false;
	ip->ttl--;
	ip->check = changed_checksum(ip->check, record->rest.sums[reply ? 2 : 0]);
	ip->saddr = reply ? record->vip : record->nat;
	ip->daddr = reply ? record->client : record->backend;
	return true;
}

static __always_inline bool rewrite6(void *header, const void *end, const struct session6 *record, bool reply)
{
	struct ipv6hdr *ip = header;

	if ((void *)(ip + 1) > end)
		return false;
	ip->hop_limit--;
	__builtin_memcpy(ip->saddr, reply ? record->vip : record->nat, sizeof(ip->saddr));
	__builtin_memcpy(ip->daddr, reply ? record->client : record->backend, sizeof(ip->daddr));
	return true;
}

/* Return the bytes of Ethernet and of the tag that the next hop's frames have. Plain packets leave untagged. */
static __always_inline u32 link_size(const struct nat_hop *hop, const struct packet *pkt)
{
	return sizeof(struct ethhdr) + (!pkt->plain && hop->vlan ? sizeof(struct vlan_tag) : 0);
}

/* Send the frame to the next hop. */
static __always_inline int leave_by(const struct xdp_md *ctx, const struct uplink *uplink, const struct nat_hop *hop)
{
	if (hop->ifindex && hop->ifindex != ctx->ingress_ifindex)
		return bpf_redirect(hop->ifindex, 0);
	return hairpin(ctx, uplink);
}

/* Make room for the next hop's Ethernet header in place of the packet's and a tunnel's, and write it. */
static __always_inline bool rewrite_link(struct xdp_md *ctx, const struct uplink *uplink, const struct nat_hop *hop,
					 u32 l2, const struct packet *pkt)
{
	bool other = hop->ifindex && hop->ifindex != ctx->ingress_ifindex;
	__be16 type = pkt->family == 4 ? htons(ETH_P_IP) : htons(ETH_P_IPV6);
	int surplus = (int)(pkt->l2 + pkt->outer) - (int)l2;
	struct vlan_tag *tag;
	void *data;

	if (surplus && bpf_xdp_adjust_head(ctx, surplus))
		return false;
	data = frame_start(ctx);
	if (data + sizeof(struct ethhdr) + sizeof(*tag) > frame_end(ctx))
		return false;
	copy_mac(data, hop->mac);
	copy_mac(data + 6, other ? hop->source : uplink->mac);
	if (!pkt->plain && hop->vlan) {
		tag = data + sizeof(struct ethhdr);
		tag->tag = htons(hop->vlan);
		tag->next = type;
		type = htons(ETH_P_8021Q);
	}
	*(__be16 *)(data + 12) = type;
	return true;
}

static __always_inline bool is_last_hop(struct xdp_md *ctx, const struct packet *pkt)
{
	const void *ip = frame_start(ctx) + ((pkt->l2 + pkt->outer) & 0x7f);
	const struct iphdr *four = ip;
	const struct ipv6hdr *six = ip;

	if (pkt->family == 4)
		return (void *)(four + 1) > frame_end(ctx) || four->ttl <= 1;
	return (void *)(six + 1) > frame_end(ctx) || six->hop_limit <= 1;
}

/*
 * Rewrite the packet for the other end of the slot's session and send it. `transport` is the offset of its TCP or UDP
 * header in the frame. Returns the XDP verdict; `event` becomes another if the packet cannot be sent.
 */
static __always_inline int translate(struct xdp_md *ctx, const struct uplink *uplink, const struct nat_hop *hop,
				     u32 slot, bool reply, u32 transport, const struct packet *pkt, enum counter *event)
{
	const struct session *session;
	u32 l2 = link_size(hop, pkt);
	struct record record = {};
	void *data, *end;
	bool done;

	transport += l2 - pkt->l2 - pkt->outer;
	if (!rewrite_link(ctx, uplink, hop, l2, pkt)) {
		*event = DROP_NO_HEADROOM;
		return XDP_DROP;
	}
	data = frame_start(ctx);
	end = frame_end(ctx);
	session = find_record(slot, pkt, &record);
	if (!session)
		return XDP_DROP; /* never */
	if (NAT6 && record.six)
		done = rewrite6(data + l2, end, record.six, reply);
	else
		done = record.four && rewrite4(data + l2, end, record.four, reply);
	if (!done || !rewrite_transport(data + (transport & HEADERS_END), end, session, reply)) {
		*event = DROP_MALFORMED; /* never: the parsers have read all of it */
		return XDP_DROP;
	}
	return leave_by(ctx, uplink, hop);
}
#endif
