/* SPDX-License-Identifier: GPL-2.0-only */
/* Ethernet: MACs, the marker of `forward: l2` in the source MAC, VLAN tags. */
#pragma once

#include "cursor.h"
#include "maps.h"
#include "packet.h"

struct vlan_tag {
	__be16 tag;
	__be16 next; /* type of what follows */
};

static __always_inline bool same_mac(const void *a, const void *b)
{
	return *(const u32 *)a == *(const u32 *)b && *(const u16 *)(a + 4) == *(const u16 *)(b + 4);
}

static __always_inline void copy_mac(void *to, const void *from)
{
	*(u32 *)to = *(const u32 *)from;
	*(u16 *)(to + 4) = *(const u16 *)(from + 4);
}

/* The marker of forward l2: see MARKER. Anything else, hop 0 included, came straight from the router. */
static __always_inline void parse_marker(const struct ethhdr *eth, struct packet *pkt)
{
	const void *source = eth->h_source;
	u32 head = *(const u32 *)source;

	if ((head & MARKER_MASK) == MARKER) {
		set_hop(pkt, head >> 24);
		pkt->prev = ntohs(*(const __be16 *)(source + 4));
	}
}

/* The packet keeps all its bytes but the two MACs: no checksum to update, no TTL to decrement, no headroom needed. */
static __always_inline bool write_marker(struct xdp_md *ctx, const struct conf *conf, const struct node *next,
					 const struct packet *pkt)
{
	struct ethhdr *eth = frame_start(ctx);
	void *source;

	if ((void *)(eth + 1) > frame_end(ctx))
		return false;
	copy_mac(eth->h_dest, next->mac);
	source = eth->h_source;
	*(u32 *)source = MARKER | next_hop(pkt) << 24;
	*(__be16 *)(source + 4) = htons(conf->self_tag);
	return true;
}

/* In one piece: clang believes the struct to be packed, and reads bytes. */
static __always_inline __be16 ether_type(const struct ethhdr *eth)
{
	const void *type = &eth->h_proto;

	return *(const __be16 *)type;
}

static __always_inline bool is_vlan(__be16 type)
{
	return type == htons(ETH_P_8021Q) || type == htons(ETH_P_8021AD);
}

/* Whether the configuration names both of two VLANs, 12 bits each. Without a branch for each: see verifier.h. */
static __always_inline bool are_named_vlans(u32 two)
{
	u32 zero = 0, outer = two >> 12 & 0xfff, inner = two & 0xfff;
	struct vlan_set *named = vlans.lookup(&zero);

	return named && named->bits[outer >> 6] >> (outer & 63) & named->bits[inner >> 6] >> (inner & 63) & 1;
}

/*
 * Move the cursor past up to two tags (802.1Q, 802.1ad), and return the type of what follows. Their VLANs are shifted
 * into `two`, in which 0 is no VLAN.
 */
static __always_inline __be16 skip_vlan_tags(struct cursor *c, __be16 type, struct packet *pkt, u32 *two)
{
	struct vlan_tag *tag;
	int i;

#pragma unroll
	for (i = 0; i < 2; i++) {
		if (!is_vlan(type))
			break;
		tag = take(c, sizeof(*tag));
		if (!tag)
			return 0;
		type = tag->next;
		*two = *two << 12 | (ntohs(tag->tag) & 0xfff);
		pkt->l2 += sizeof(*tag);
	}
	return type;
}

/* The MACs of a frame and up to two tags, kept while its head moves. */
union link_header {
	u32 words[5];
	u16 halves[10];
};

/* Keep MACs and tags. The frame is longer than they are: an IP header follows. */
static __always_inline bool save_link(struct xdp_md *ctx, union link_header *saved)
{
	u32 *words = frame_start(ctx);
	u32 i;

	if ((void *)words + sizeof(*saved) > frame_end(ctx))
		return false;
#pragma unroll
	for (i = 0; i < 5; i++)
		saved->words[i] = words[i];
	return true;
}

/* Write them at the frame's head again, `l2` bytes, before a packet of that family. */
static __always_inline bool restore_link(struct xdp_md *ctx, const union link_header *saved, u32 l2, u8 family)
{
	void *data = frame_start(ctx);
	u32 *words = data;
	__be16 *type;

	if (data + sizeof(*saved) + sizeof(*type) > frame_end(ctx))
		return false;
	words[0] = saved->words[0];
	words[1] = saved->words[1];
	words[2] = saved->words[2];
	if (l2 > 14)
		words[3] = saved->words[3];
	if (l2 > 18)
		words[4] = saved->words[4];
	type = l2 > 18 ? data + 20 : l2 > 14 ? data + 16 : data + 12;
	*type = family == 4 ? htons(ETH_P_IP) : htons(ETH_P_IPV6);
	return true;
}
