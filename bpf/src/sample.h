/* SPDX-License-Identifier: GPL-2.0-only */
/* Shows some packets, and what became of them, to whoever reads the ring buffer. Costs one test while it is off. */

static __always_inline bool is_asked_for(const struct sampling *asked, const struct packet *pkt, u32 slot, u32 event)
{
	u32 i, apart = 0;

	if (asked->slot != ANY_SAMPLE && asked->slot != slot)
		return false;
	if (asked->event != ANY_SAMPLE && asked->event != event)
		return false;
	if (asked->family && asked->family != pkt->family)
		return false;
#pragma unroll
	for (i = 0; i < 4; i++)
		apart |= (asked->client[i] ^ pkt->client[i]) & asked->mask[i];
	return !apart && bpf_get_prandom_u32() % asked->every == 0;
}

/* The frame is told as it leaves this program: forwarded, opened, or as it came. */
static __always_inline void sample(struct xdp_md *ctx, const struct packet *pkt, u32 slot, u32 event)
{
	u32 zero = 0;
	u64 length = bpf_xdp_get_buff_len(ctx), kept = length < SAMPLE_BYTES ? length : SAMPLE_BYTES;
	struct sampling *asked = sampling.lookup(&zero);
	struct sample *told;

	if (!asked || !asked->every || !is_asked_for(asked, pkt, slot, event))
		return;
	told = samples.ringbuf_reserve(sizeof(*told));
	if (!told) /* nobody reads as fast as this */
		return;
	told->time_ns = bpf_ktime_get_ns();
	told->ifindex = ctx->ingress_ifindex;
	told->length = length;
	told->slot = slot;
	told->event = event;
	told->prev = pkt->prev_family == 6 ? 0 : pkt->prev;
	told->hop = pkt->hop;
	/* One less and one more: the verifier (6.1 above all) must see 1 to SAMPLE_BYTES, a power of two. */
	kept--;
	asm volatile("" : "+r"(kept));
	kept &= SAMPLE_BYTES - 1;
	kept++;
	told->kept = kept;
	if (bpf_xdp_load_bytes(ctx, 0, told->bytes, kept))
		told->kept = 0;
	samples.ringbuf_submit(told, 0);
}
