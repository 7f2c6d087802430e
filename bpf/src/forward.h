/* SPDX-License-Identifier: GPL-2.0-only */
/* Sends a packet to the next node, with a marker that says how often it has been forwarded and by whom. */

/*
 * XDP_TX is the fast way out of the interface that the packet came by. On a veth whose peer has GRO but no XDP
 * program it queues packets and wakes nobody (veth_xdp_flush(), Linux 6.18): they lie there until something else
 * is sent. bpf_redirect() wakes the peer.
 */
static __always_inline int hairpin(const struct xdp_md *ctx, const struct uplink *uplink)
{
	return uplink->redirect ? bpf_redirect(ctx->ingress_ifindex, 0) : XDP_TX;
}

static __always_inline bool leaves_elsewhere(const struct xdp_md *ctx, const struct node *next)
{
	return next->ifindex && next->ifindex != ctx->ingress_ifindex;
}

static __always_inline int leave(const struct xdp_md *ctx, const struct uplink *uplink, const struct node *next)
{
	return leaves_elsewhere(ctx, next) ? bpf_redirect(next->ifindex, 0) : hairpin(ctx, uplink);
}

/*
 * The packet keeps all its bytes but the two MACs: no checksum to mend, no TTL to count down, no room to find.
 */
static __always_inline bool mark(struct xdp_md *ctx, const struct conf *conf, const struct node *next,
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

static __always_inline int forward_by_tunnel(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
					     const struct service *service, const struct node *next,
					     const struct packet *pkt, u32 hash, enum counter *event)
{
	const u8 *source = leaves_elsewhere(ctx, next) ? next->source : uplink->mac;
	u32 size = outer_size(service, next);

	if (pkt->length + size > next->mtu) {
		*event = DROP_TOO_BIG;
		if (!tell_too_big(ctx, pkt, next->mtu - size))
			return XDP_DROP;
		*event = REPLY_TOO_BIG;
		return hairpin(ctx, uplink);
	}
	if (!wrap(ctx, conf, service, next, source, pkt, hash)) {
		*event = DROP_NO_HEADROOM;
		return XDP_DROP;
	}
	return leave(ctx, uplink, next);
}

static __always_inline int forward(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
				   const struct service *service, const struct node *next, struct packet *pkt, u32 hash,
				   enum counter *event)
{
	if (service->forward != FORWARD_BY_L2)
		return forward_by_tunnel(ctx, conf, uplink, service, next, pkt, hash, event);
	/*
	 * It may have come in a tunnel: nodes differ in `forward` while a configuration spreads. Neither fails, as
	 * headers are taken off and written over only; the verifier wants an answer.
	 */
	if ((pkt->outer && !unwrap(ctx, pkt)) || !mark(ctx, conf, next, pkt)) {
		*event = DROP_NO_HEADROOM;
		return XDP_DROP;
	}
	return leave(ctx, uplink, next);
}
