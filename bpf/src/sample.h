/* SPDX-License-Identifier: GPL-2.0-only */
/* Copies some packets, and what happened to them, into a ring buffer. Costs one test while sampling is off. */
#pragma once

#include "lb.h"
#include "maps.h"
#include "packet.h"

static __always_inline bool is_selected(const struct sampling *filter, const struct packet *pkt, u32 slot, u32 event)
{
	u32 i, difference = 0;

	if (filter->slot != ANY_SAMPLE && filter->slot != slot)
		return false;
	if (filter->event != ANY_SAMPLE && filter->event != event)
		return false;
	if (filter->family && filter->family != pkt->family)
		return false;
#pragma unroll
	for (i = 0; i < 4; i++)
		difference |= (filter->client[i] ^ pkt->client[i]) & filter->mask[i];
	return !difference && bpf_get_prandom_u32() % filter->every == 0;
}

/* The frame is copied as it leaves this program: forwarded, without the tunnel's headers, or as it came. */
static __always_inline void copy_sample(struct xdp_md *ctx, const struct packet *pkt, u32 slot, u32 event)
{
	u32 zero = 0;
	u64 length = bpf_xdp_get_buff_len(ctx), kept = length < SAMPLE_BYTES ? length : SAMPLE_BYTES;
	struct sampling *filter = sampling.lookup(&zero);
	struct sample *entry;

	if (!filter || !filter->every || !is_selected(filter, pkt, slot, event))
		return;
	entry = samples.ringbuf_reserve(sizeof(*entry));
	if (!entry) /* the reader is too slow */
		return;
	entry->time_ns = bpf_ktime_get_ns();
	entry->ifindex = ctx->ingress_ifindex;
	entry->length = length;
	entry->slot = slot;
	entry->event = event;
	entry->prev = pkt->prev_family == 6 ? 0 : pkt->prev;
	entry->hop = pkt->hop;
	/* One less and one more: the verifier (6.1 above all) must see 1 to SAMPLE_BYTES, a power of two. */
	kept--;
	asm volatile("" : "+r"(kept));
	kept &= SAMPLE_BYTES - 1;
	kept++;
	entry->kept = kept;
	if (bpf_xdp_load_bytes(ctx, 0, entry->bytes, kept))
		entry->kept = 0;
	samples.ringbuf_submit(entry, 0);
}

static __always_inline void sample_packet(struct xdp_md *ctx, const struct conf *conf, const struct packet *pkt,
					  u32 slot, u32 event)
{
	if (!pkt->plain && conf->flags & CONF_SAMPLE)
		copy_sample(ctx, pkt, slot, event);
}
