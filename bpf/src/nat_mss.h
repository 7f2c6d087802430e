/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Lowers the MSS that a SYN or SYN-ACK advertises (RFC 9293 section 3.7.1), so that a flow's segments fit into the
 * tunnels between nodes. Both pass here in NAT mode. An option is never added: without one, 536 bytes (1220 with IPv6)
 * count, which always fit. In Python: bpf/reference/translation.py.
 */
#pragma once

#include "cursor.h"
#include "lb.h"
#include "new_session.h"
#include "translate.h"

#if NAT

enum tcp_option { TCP_END_OF_LIST = 0, TCP_NO_OPERATION = 1, TCP_MSS = 2 };

#define TCP_OPTIONS_MAX 40 /* bytes, and so options, of a TCP header */
#define TCP_MSS_LENGTH 4

/* Lower the value at `at`, `place` bytes into the options. A value across two words counts with its bytes swapped. */
static __always_inline void lower_value(struct tcphdr *tcp, __be16 *at, u32 place, u16 limit)
{
	u16 before = *at, after = htons(limit);

	if (ntohs(before) <= limit)
		return;
	*at = after;
	if (place & 1) {
		before = __builtin_bswap16(before);
		after = __builtin_bswap16(after);
	}
	tcp->check = changed_checksum(tcp->check, fold_sum((u64)(u16)~before + after));
}

/* Lower every MSS option of the SYN whose TCP header is `offset` bytes into the frame: receivers differ in which of two
 * they use. */
static __always_inline void lower_mss(struct xdp_md *ctx, u32 offset, u16 limit)
{
	void *end = frame_end(ctx);
	struct tcphdr *tcp = frame_start(ctx) + (offset & HEADERS_END);
	u32 at = 0, size, length, i;
	u8 *option;

	if ((void *)(tcp + 1) > end)
		return;
	size = tcp->doff * 4 - sizeof(*tcp);
	if (size > TCP_OPTIONS_MAX)
		return;
#pragma clang loop unroll(disable)
	for (i = 0; i < TCP_OPTIONS_MAX; i++) {
		/* It is less anyway; with the bound, the verifier walks the rest once for all paths up to here. */
		asm volatile("%0 &= 63" : "+r"(at));
		option = (u8 *)(tcp + 1) + at;
		asm volatile("" : "+r"(option)); /* clang must not add it up again */
		if (at + 2 > size || (void *)(option + 2) > end || option[0] == TCP_END_OF_LIST)
			return;
		length = option[0] == TCP_NO_OPERATION ? 1 : option[1];
		if (!length || (length == 1 && option[0] != TCP_NO_OPERATION) || at + length > size)
			return;
		if (option[0] == TCP_MSS && length == TCP_MSS_LENGTH && (void *)(option + TCP_MSS_LENGTH) <= end)
			lower_value(tcp, (__be16 *)(option + 2), at, limit);
		at += length;
	}
}
#endif
