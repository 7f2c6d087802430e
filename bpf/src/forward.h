/* SPDX-License-Identifier: GPL-2.0-only */
/* Sends a packet to the next node, with a marker that holds how often it was forwarded and by which node. */
#pragma once

#include "decap.h"
#include "encap.h"
#include "ethernet.h"
#include "icmp_error.h"
#include "lb.h"
#include "packet.h"

/*
 * Send by the interface that the packet came by. XDP_TX is fast, but on a veth whose peer has GRO and no XDP program it
 * queues packets and does not wake the peer (veth_xdp_flush(), Linux 6.18): they wait until something else is sent.
 * bpf_redirect() wakes the peer.
 */
static __always_inline int hairpin(const struct xdp_md *ctx, const struct uplink *uplink)
{
	return uplink->redirect ? bpf_redirect(ctx->ingress_ifindex, 0) : XDP_TX;
}

static __always_inline bool uses_other_interface(const struct xdp_md *ctx, const struct node *next)
{
	return next->ifindex && next->ifindex != ctx->ingress_ifindex;
}

static __always_inline int transmit(const struct xdp_md *ctx, const struct uplink *uplink, const struct node *next)
{
	return uses_other_interface(ctx, next) ? bpf_redirect(next->ifindex, 0) : hairpin(ctx, uplink);
}

static __always_inline bool is_too_big(const struct service *service, const struct node *next, const struct packet *pkt)
{
	return service->forward != FORWARD_BY_L2 && pkt->length + outer_size(service, next) > next->mtu;
}

static __always_inline int forward_by_tunnel(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
					     const struct service *service, const struct node *next,
					     const struct packet *pkt, u32 hash, enum counter *event)
{
	const u8 *source = uses_other_interface(ctx, next) ? next->source : uplink->mac;

	if (!pkt->plain && is_too_big(service, next, pkt)) {
		*event = DROP_TOO_BIG;
		if (!reply_too_big(ctx, pkt, next->mtu - outer_size(service, next)))
			return XDP_DROP;
		*event = REPLY_TOO_BIG;
		return hairpin(ctx, uplink);
	}
	if (!encapsulate(ctx, conf, service, next, source, pkt, hash)) {
		*event = DROP_NO_HEADROOM;
		return XDP_DROP;
	}
	return transmit(ctx, uplink, next);
}

/* Return the XDP verdict. `event` becomes another if the packet cannot be forwarded. */
static __always_inline int forward(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
				   const struct service *service, const struct node *next, struct packet *pkt, u32 hash,
				   enum counter *event)
{
	if (service->forward != FORWARD_BY_L2)
		return forward_by_tunnel(ctx, conf, uplink, service, next, pkt, hash, event);
	/*
	 * It may have come in a tunnel: nodes differ in `forward` while a configuration spreads. Neither call fails,
	 * since they only remove and overwrite headers; the verifier wants the checks.
	 */
	if ((pkt->outer && !decapsulate(ctx, pkt)) || !write_marker(ctx, conf, next, pkt)) {
		*event = DROP_NO_HEADROOM;
		return XDP_DROP;
	}
	return transmit(ctx, uplink, next);
}
