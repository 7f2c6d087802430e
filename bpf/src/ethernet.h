/* SPDX-License-Identifier: GPL-2.0-only */
/* Ethernet: MACs, the marker of `forward: l2` in the source MAC, VLAN tags. */
#pragma once

#include "cursor.h"
#include "packet.h"

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
 * The marker of forward l2 is the source MAC 02:4c:42:HH:TT:TT (locally administered, then "LB"): hop and tag of the
 * sender. Anything else, hop 0 included, came straight from the router.
 */
static __always_inline void parse_marker(const struct ethhdr *eth, struct packet *pkt)
{
	const u8 *source = eth->h_source;

	if (source[0] == 0x02 && source[1] == 0x4c && source[2] == 0x42) {
		pkt->hop = source[3];
		pkt->prev = source[4] << 8 | source[5];
	}
}

/* The packet keeps all its bytes but the two MACs: no checksum to update, no TTL to decrement, no headroom needed. */
static __always_inline bool write_marker(struct xdp_md *ctx, const struct conf *conf, const struct node *next,
					 const struct packet *pkt)
{
	struct ethhdr *eth = frame_start(ctx);
	u8 *source = eth->h_source;

	if ((void *)(eth + 1) > frame_end(ctx))
		return false;
	__builtin_memcpy(eth->h_dest, next->mac, sizeof(next->mac));
	source[0] = 0x02;
	source[1] = 0x4c;
	source[2] = 0x42;
	source[3] = pkt->hop + 1;
	source[4] = conf->self_tag >> 8;
	source[5] = conf->self_tag;
	return true;
}

static __always_inline bool is_vlan(__be16 type)
{
	return type == htons(ETH_P_8021Q) || type == htons(ETH_P_8021AD);
}

/* Move the cursor past up to two tags (802.1Q, 802.1ad) and return the type of what follows. */
static __always_inline __be16 skip_vlan_tags(struct cursor *c, __be16 type, struct packet *pkt)
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
		pkt->l2 += sizeof(*tag);
	}
	return type;
}

/* The MACs and tags of a frame, kept while its head moves. */
struct link_header {
	u8 bytes[14 + 8];
};

/* Keep MACs and tags. The frame is longer than they are: an IP header follows. */
static __always_inline bool save_link(struct xdp_md *ctx, struct link_header *saved)
{
	void *data = frame_start(ctx);

	if (data + sizeof(*saved) > frame_end(ctx))
		return false;
	__builtin_memcpy(saved, data, sizeof(*saved));
	return true;
}

/* Write them at the frame's head again, `l2` bytes, before a packet of that family. */
static __always_inline bool restore_link(struct xdp_md *ctx, const struct link_header *saved, u32 l2, u8 family)
{
	void *data = frame_start(ctx);
	__be16 *type;

	if (data + sizeof(*saved) > frame_end(ctx))
		return false;
	__builtin_memcpy(data, saved, 12);
	if (l2 > 14)
		__builtin_memcpy(data + 12, saved->bytes + 12, 4);
	if (l2 > 18)
		__builtin_memcpy(data + 16, saved->bytes + 16, 4);
	type = l2 > 18 ? data + 20 : l2 > 14 ? data + 16 : data + 12;
	*type = family == 4 ? htons(ETH_P_IP) : htons(ETH_P_IPV6);
	return true;
}
