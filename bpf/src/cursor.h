/* SPDX-License-Identifier: GPL-2.0-only */
/* Where the frame is, and the cursor that reads its headers. */
#pragma once

#include "packet.h"

/* The next header to read, and the end of the frame. */
struct cursor {
	void *at, *end;
};

/* Read where the frame begins now: moving its head invalidates all pointers into it, and the compiler's copies too. */
static __always_inline void *frame_start(struct xdp_md *ctx)
{
	return (void *)(long)*(volatile u32 *)&ctx->data;
}

static __always_inline void *frame_end(struct xdp_md *ctx)
{
	return (void *)(long)*(volatile u32 *)&ctx->data_end;
}

#define HEADERS_END 0x3ff /* bytes into the frame: no header may begin beyond; a mask */

/* FORGET() for the cursor's place: a difference of pointers is unknown too. Return false if it is too far. */
static __always_inline bool forget_offset(struct xdp_md *ctx, struct cursor *c)
{
	void *data = (void *)(long)ctx->data;
	u64 offset = c->at - data;

	c->at = data + (offset & HEADERS_END);
	return offset <= HEADERS_END;
}

/* Return the next `size` bytes and move past them; NULL if the frame ends before. */
static __always_inline void *take(struct cursor *c, u32 size)
{
	void *header = c->at;

	if (header + size > c->end)
		return NULL;
	c->at = header + size;
	return header;
}

/*
 * Whether so many bytes from the cursor on are in the frame. Programs may see only a part of it (frags), with which the
 * plain program is content.
 */
static __always_inline bool in_frame(struct xdp_md *ctx, const struct cursor *c, u64 length, const struct packet *pkt)
{
	/* Linux 6.1's verifier does not know that 16 swapped bits are 16 bits; clang must not drop the mask. */
	asm("%0 &= 0xffff" : "+r"(length));
	return c->at + length <= c->end ||
	       (!pkt->plain && c->at - (void *)(long)ctx->data + length <= bpf_xdp_get_buff_len(ctx));
}

/* Whether a packet of that length at the cursor is whole: in the frame, or in what the tunnel carries. */
static __always_inline bool is_whole(struct xdp_md *ctx, const struct cursor *c, u32 length, const struct packet *pkt)
{
	return pkt->outer ? length <= pkt->length : in_frame(ctx, c, length, pkt);
}
