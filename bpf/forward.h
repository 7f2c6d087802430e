/* SPDX-License-Identifier: GPL-2.0-only */
/* Sends a packet to the next node, with a marker that says how often it has been forwarded and by whom. */

/*
 * The packet keeps all its bytes but the two MACs: no checksum to mend, no TTL to count down, no room to find.
 * It leaves by the interface it came from: all nodes share the segment.
 */
static __always_inline int forward_l2(const struct conf *conf, const struct node *next, struct packet *pkt)
{
	u8 *source = pkt->eth->h_source;

	__builtin_memcpy(pkt->eth->h_dest, next->mac, sizeof(next->mac));
	source[0] = 0x02;
	source[1] = 0x4c;
	source[2] = 0x42;
	source[3] = pkt->hop + 1;
	source[4] = conf->self_tag >> 8;
	source[5] = conf->self_tag;
	return XDP_TX;
}
