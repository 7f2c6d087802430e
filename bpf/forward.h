/* SPDX-License-Identifier: GPL-2.0-only */
/* Sends a packet to the next node, with a marker that says how often it has been forwarded and by whom. */

/*
 * Out of the interface that the packet came by: all nodes share the segment. XDP_TX is the fast way. On a veth whose
 * peer has GRO but no XDP program it queues packets and wakes nobody (veth_xdp_flush(), Linux 6.18): they lie there
 * until something else is sent. bpf_redirect() wakes the peer.
 */
static __always_inline int hairpin(const struct xdp_md *ctx, const struct uplink *uplink)
{
	return uplink->redirect ? bpf_redirect(ctx->ingress_ifindex, 0) : XDP_TX;
}

/*
 * The packet keeps all its bytes but the two MACs: no checksum to mend, no TTL to count down, no room to find.
 */
static __always_inline int forward_l2(const struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
				      const struct node *next, struct packet *pkt)
{
	u8 *source = pkt->eth->h_source;

	__builtin_memcpy(pkt->eth->h_dest, next->mac, sizeof(next->mac));
	source[0] = 0x02;
	source[1] = 0x4c;
	source[2] = 0x42;
	source[3] = pkt->hop + 1;
	source[4] = conf->self_tag >> 8;
	source[5] = conf->self_tag;
	return hairpin(ctx, uplink);
}
