/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A flow's row: the keyed hash that must be the same on all nodes. In Python: bpf/reference/flow_hash.py.
 *
 * Multilinear hashing with halved multiplications (Lemire and Kaser, "Strongly universal string hashing is fast",
 * The Computer Journal 57, 2014): with k the key's words and w the flow's,
 *
 *	sum = k0 + (w0 + k1) * (w1 + k2) + ... mod 2^64,	hash = mix(sum / 2^32)
 *
 * For any two flows, the hashes over all keys are independent and uniform: where the flows differ in w1, say, the
 * difference of their sums has the term k2 * (w1 - w1'), whose upper half k2 alone makes uniform, since w1 - w1' != 0
 * has its lowest bit below 2^32; and k0 shifts both sums uniformly. So under one key in ROWS, and no more, two given
 * flows share a row: no collision holds for every key, nor for more keys than it must. mix() is one to one and keeps
 * that; it also spreads neighbors (one client's ports), which a sum does not.
 */
#pragma once

#include "lb.h"
#include "packet.h"

/* One to one, every bit of it depends on every other: Chris Wellons' lowbias32 (2018, public domain). */
static __always_inline u32 mix(u32 word)
{
	word = (word ^ word >> 16) * 0x7feb352d;
	word = (word ^ word >> 15) * 0x846ca68b;
	return word ^ word >> 16;
}

static __always_inline u64 pair(const u64 *key, const struct packet *pkt, int i)
{
	return (pkt->client[i] + key[1 + 2 * i]) * (pkt->vip[i] + key[2 + 2 * i]);
}

/* Words are used as they are in the packet: all machines that run this are little-endian. */
static __always_inline u32 flow_hash(const u64 *key, const struct service *service, const struct packet *pkt)
{
	u64 sum = key[0] + pair(key, pkt, 0);
	u64 ports = pkt->client_port | (u32)pkt->vip_port << 16;

	if (service->affinity != AFFINITY_FIVE_TUPLE)
		ports = service->affinity == AFFINITY_THREE_TUPLE ? ports & 0xffff0000 : 0;
	sum += ports * key[KEY_WORDS - 1];
	if (pkt->family == 6)
		sum += pair(key, pkt, 1) + pair(key, pkt, 2) + pair(key, pkt, 3);
	return mix(sum >> 32);
}
