/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sessions: finding one by a packet. nat_layout.h has the form, track.h follows a session's state.
 *
 * A flow's hash names two buckets of its row; its session is in one of them. No bucket has two sessions of one
 * fingerprint, so at most one record of each is read.
 */
#pragma once

#include "cursor.h"
#include "flow.h"
#include "lb.h"
#include "nat_layout.h"
#include "packet.h"
#include "verifier.h"

#if NAT
#define NO_SLOT 0xffffffff

#define TAG_KEY (0xffffULL << 48 | (u64)(TAG_IPV6 | TAG_UDP) << 32) /* what a flow's tag has from its flow alone: */
#define TAG_KEY_HIGH (TAG_KEY >> 32)                                /* all of it in the upper half */

static __always_inline u32 tag_state(u64 tag)
{
	return tag >> 40 & 0xff;
}

static __always_inline u32 tag_flags(u64 tag)
{
	return tag >> 32 & 0xff;
}

static __always_inline u64 make_tag(u64 fingerprint, u64 state, u64 flags, u32 stamp)
{
	return fingerprint << 48 | state << 40 | flags << 32 | stamp;
}

/* Return the tick. The clock moves with jiffies, which are read without a call: it costs 15 ns. */
static __always_inline u32 now_tick(void)
{
	u32 zero = 0, jiffies = bpf_jiffies64(), tick;
	u64 *last = nat_ticks.lookup(&zero), both = last ? *(volatile u64 *)last : 0;

	if (both >> 32 == jiffies && both)
		return both;
	tick = bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
	if (last)
		*(volatile u64 *)last = (u64)jiffies << 32 | tick;
	return tick;
}

/* Where a flow's session may be, and the part of its tag that is the flow's. */
struct session_place {
	u64 key;
	u32 bucket[2];
};

/* Mask a way. clang drops a mask that it knows to be superfluous; the verifier needs it. */
static __always_inline u64 way_of_slot(u64 slot)
{
	asm volatile("%0 &= 7" : "+r"(slot));
	return slot;
}

static __always_inline u64 *find_tag(u32 slot)
{
	u32 index = slot / WAYS;
	struct session_bucket *bucket = session_tags.lookup(&index);

	if (!bucket)
		return NULL;
	return &bucket->tag[way_of_slot(slot)];
}

static __always_inline u32 family_flags(const struct packet *pkt)
{
	return (pkt->family == 6 ? TAG_IPV6 : 0) | (pkt->protocol == IPPROTO_UDP ? TAG_UDP : 0);
}

static __always_inline void find_place(u32 bucket_bits, u32 hash, const struct packet *pkt, struct session_place *place)
{
	u32 other = mix(hash ^ 0x51ed270b), mask = (1 << (bucket_bits & 15)) - 1;
	u32 first = other & mask, second = other >> 7 & mask;

	second ^= first == second;
	place->key = make_tag(other >> 16 | 1, 0, family_flags(pkt), 0);
	place->bucket[0] = first << NAT_ROW_BITS | (hash & (NAT_ROWS - 1));
	place->bucket[1] = second << NAT_ROW_BITS | (hash & (NAT_ROWS - 1));
}

/* The logarithms of 1, 2, 4 to 256: each in the nibble to which multiplying by 19 leads. */
#define LOG2_NIBBLES 0x6003705024108ULL

/* Return the first way whose tag has that key; WAYS: none. Without a branch for each: see verifier.h. */
static __always_inline u32 find_way(const struct session_bucket *bucket, u64 key)
{
	const u32 *high = (const u32 *)bucket->tag + 1;
	u64 same = 1 << WAYS, differs, first, i;

#pragma unroll
	for (i = 0; i < WAYS; i++) {
		differs = (high[2 * i] ^ (u32)(key >> 32)) & TAG_KEY_HIGH;
		same |= (differs - 1) >> 63 << i;
	}
	first = same & -same; /* the lowest bit */
	return LOG2_NIBBLES >> ((first * 19 >> 4 & 15) * 4) & 15;
}

static __always_inline struct session *find_rest4(u32 slot)
{
	struct session4 *record = sessions4.lookup(&slot);

	if (!record)
		return NULL;
	asm volatile("" : "+r"(record)); /* clang must not add the offset before the test */
	return &record->rest;
}

static __always_inline struct session *find_rest6(u32 slot)
{
#if NAT6
	struct session6 *record = sessions6.lookup(&slot);

	if (!record)
		return NULL;
	asm volatile("" : "+r"(record)); /* likewise */
	return &record->rest;
#else
	return NULL;
#endif
}

/* A session's record: the one of its family. */
struct record {
	struct session4 *four;
	struct session6 *six;
};

/* Find the record of the packet's session; return what follows its addresses. */
static __always_inline struct session *find_record(u32 slot, const struct packet *pkt, struct record *record)
{
#if NAT6
	if (pkt->family == 6) {
		record->six = sessions6.lookup(&slot);
		if (!record->six)
			return NULL;
		asm volatile("" : "+r"(record->six)); /* likewise */
		return &record->six->rest;
	}
#endif
	record->four = sessions4.lookup(&slot);
	if (!record->four)
		return NULL;
	asm volatile("" : "+r"(record->four)); /* likewise */
	return &record->four->rest;
}

/*
 * Return the bits in which the ports and the protocol differ; `ports` are two of the record's. One value, no branches.
 */
static __always_inline u32 flow_difference(const void *ports, const struct session *session, const struct packet *pkt)
{
	u32 wanted = pkt->client_port | (u32)pkt->vip_port << 16;

	return (*(const u32 *)ports ^ wanted) | (session->protocol ^ pkt->protocol);
}

#if NAT6
static __always_inline u32 address_difference(const __be32 *a, const __be32 *b)
{
	return (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]);
}
#endif

/* Whether the record has the packet's ends; `reply`: it is from the backend to the NAT address. */
static __always_inline bool is_of_record4(const struct session4 *four, bool reply, const struct packet *pkt)
{
	const struct session *rest = &four->rest;

	if (reply)
		return !((four->backend ^ pkt->client[0]) | (four->nat ^ pkt->vip[0]) |
			 flow_difference(&rest->backend_port, rest, pkt));
	return !((four->client ^ pkt->client[0]) | (four->vip ^ pkt->vip[0]) |
		 flow_difference(&rest->client_port, rest, pkt));
}

/* Whether the slot's record is that of a packet from a client to the VIP. */
static __always_inline bool is_client_of(u32 slot, const struct packet *pkt)
{
	struct session4 *four;

#if NAT6
	struct session6 *six;

	if (pkt->family == 6) {
		six = sessions6.lookup(&slot);
		return six && !(address_difference(six->client, pkt->client) | address_difference(six->vip, pkt->vip) |
				flow_difference(&six->rest.client_port, &six->rest, pkt));
	}
#endif
	four = sessions4.lookup(&slot);
	return four && is_of_record4(four, false, pkt);
}

/*
 * Whether the slot's record is that of a packet from a backend to a NAT address, whose endpoint is the slot. The former
 * pool's addresses name the same slots, so the address is compared too.
 */
static __always_inline bool is_backend_of(u32 slot, const struct packet *pkt)
{
	struct session4 *four;

#if NAT6
	struct session6 *six;

	if (pkt->family == 6) {
		six = sessions6.lookup(&slot);
		return six && !(address_difference(six->backend, pkt->client) | address_difference(six->nat, pkt->vip) |
				flow_difference(&six->rest.backend_port, &six->rest, pkt));
	}
#endif
	four = sessions4.lookup(&slot);
	return four && is_of_record4(four, true, pkt);
}

/*
 * Return the slot of a client's packet in one of its two buckets, and in the upper half that of its tag as it was;
 * NO_SLOT: it has no session here.
 */
static __always_inline u64 find_by_client(u32 bucket_bits, u32 hash, const struct packet *pkt)
{
	struct session_bucket *bucket;
	struct session_place place;
	u32 i, way, slot, index;
	u64 tag;

	find_place(bucket_bits, hash, pkt, &place);
#pragma unroll
	for (i = 0; i < 2; i++) {
		index = place.bucket[i];
		bucket = session_tags.lookup(&index);
		way = bucket ? find_way(bucket, place.key) : WAYS;
		slot = index * WAYS + way;
		if (way >= WAYS)
			continue;
		tag = *(volatile u64 *)&bucket->tag[way_of_slot(way)];
		if (tag_state(tag) != SESSION_BUSY && !((tag ^ place.key) & TAG_KEY) && is_client_of(slot, pkt))
			return tag >> 32 << 32 | slot;
	}
	return NO_SLOT;
}

/* Return the slot that a packet's NAT address and port name. */
static __always_inline u32 slot_of_endpoint(const struct nat_conf *nat, const struct packet *pkt)
{
	u32 address = pkt->family == 4 ? pkt->vip[0] & nat->hosts4 : pkt->vip[3] & nat->hosts6;

	return ntohl(address) << PORT_BITS | (ntohs(pkt->vip_port) & ((1 << PORT_BITS) - 1));
}

/* Return the slot if the packet, from a backend to that endpoint, is of its session; else NO_SLOT. */
static __always_inline u32 find_by_endpoint(u32 slot, const struct packet *pkt)
{
	u64 *tag = find_tag(slot), value = tag ? *tag : 0;
	u32 state = tag_state(value);

	if (state == SESSION_FREE || state == SESSION_BUSY ||
	    (tag_flags(value) ^ family_flags(pkt)) & (TAG_IPV6 | TAG_UDP) || !is_backend_of(slot, pkt))
		return NO_SLOT;
	return slot;
}
#endif
