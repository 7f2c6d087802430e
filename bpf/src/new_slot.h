/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which slot a new session gets: in the emptier of the flow's two buckets, and there the way that was left the longest
 * ago, so that a NAT endpoint rests before it is used again.
 *
 * A row's owner uses the first OWNER_WAYS ways, and any other node the rest: while nodes disagree about the owner, two
 * of them do not use one endpoint. Rather than refuse a session, the owner takes a way of the rest too. Half a bucket
 * may be half-open: the rest is for connections, whatever floods. A half-open session makes room after a few seconds if
 * there is no other. Established ones never do.
 */
#pragma once

#include "lb.h"
#include "nat_layout.h"
#include "session.h"
#include "verifier.h"

#if NAT
#define HALF_OPEN_MAX (WAYS / 2)
#define EACH_WAY 0x0101010101010101ULL /* a byte for each of a bucket's ways */
#define FREE_END (1ULL << 35)          /* see free_key() */

/* A way that a session may take, and how good it is: more is better, 0 is none. */
struct room {
	u32 way;
	u32 rank;
};

/* Whether a tag's state is SYN or BUSY. */
static __always_inline u64 is_half_open(u64 tag)
{
	return (1 << SESSION_SYN | 1 << SESSION_BUSY) >> (tag_state(tag) & 7) & 1;
}

/* Of numbers below 2^63. */
static __always_inline u64 max_of(u64 a, u64 b, u32 zero)
{
	return a ^ ((a ^ b) & sign_of(a - b, zero));
}

/* Likewise. */
static __always_inline u64 min_of(u64 a, u64 b)
{
	u64 difference = a - b, sign = difference;

	asm("%0 s>>= 63" : "+r"(sign));
	return b + (difference & sign);
}

/* Return the ticks after its stamp from which on a new session may take the slot of that tag. */
static __always_inline s64 rest_of(const struct nat_conf *nat, u64 tag)
{
	u64 place = (tag >> 39 & 14) | (tag >> 36 & 1);

	asm("%0 &= 15" : "+r"(place)); /* Linux 6.1 does not know that an OR of two bounded numbers is bounded */
	return nat->rest[place];
}

/* Return the states of a bucket's ways, a byte for each, so that all are judged at once. */
static __always_inline u64 states_of(const struct session_bucket *bucket)
{
	const volatile u8 *state = (const volatile u8 *)bucket->tag + 5;
	u64 states = 0, i;

#pragma unroll
	for (i = 0; i < WAYS; i++)
		states |= (u64)state[8 * i] << (8 * i);
	return states;
}

/* How many ways are not FREE, which is 0. */
static __always_inline u64 used_ways(u64 states)
{
	return ((states + 7 * EACH_WAY) >> 3 & EACH_WAY) * EACH_WAY >> 56;
}

/* How many are SYN or BUSY: only these end in the bits 01. */
static __always_inline u64 half_open_ways(u64 states)
{
	return (states & ~(states >> 1) & EACH_WAY) * EACH_WAY >> 56;
}

/* A way's stamp above its number. What is not free has its state above that, and so is FREE_END or more. */
static __always_inline u64 free_key(const struct session_bucket *bucket, u64 way)
{
	return *(volatile u64 *)&bucket->tag[way] << 16 >> 13 | way;
}

/*
 * Return the free way that was left the longest ago, of those that a row's owner or another node takes first; FREE_END
 * or more: none is free.
 */
static __always_inline u64 free_way(const struct session_bucket *bucket, u64 owns)
{
	u64 own, others;

	own = min_of(free_key(bucket, 0), free_key(bucket, 1));
	own = min_of(own, min_of(free_key(bucket, 2), free_key(bucket, 3)));
	own = min_of(own, min_of(free_key(bucket, 4), free_key(bucket, 5)));
	others = min_of(free_key(bucket, 6), free_key(bucket, 7));
	return others + ((own - others) & -owns);
}

/*
 * Look for room in a bucket, for a row's owner or for another node. Of two free ways the one with the older stamp is
 * better, and those that are the others' are worse; a half-open one is worse than any. No two sessions of a bucket may
 * have one fingerprint: see session.h.
 *
 * Without branches: the verifier would walk them 2^8 times.
 */
static __always_inline struct room find_room(const struct conf *conf, const struct nat_conf *nat,
					     const struct session_bucket *bucket, u64 key, u32 now, u64 owns)
{
	const u64 others = (1 << WAYS) - (1 << OWNER_WAYS);
	u64 first = others ^ owns * ((1 << WAYS) - 1), ways = others | owns * first; /* bits */
	u64 best_free = 0, best_half = 0, states, score, half, tag, i;
	struct room room = {};
	s64 age;

#pragma clang loop unroll(disable)
	for (i = 0; i < WAYS; i++) {
		tag = *(volatile u64 *)&bucket->tag[way_of_slot(i)];
		half = is_half_open(tag);
		age = (s32)(now - (u32)tag);      /* of a way that was never used, the most */
		age &= ~sign_of(age, conf->zero); /* another CPU may be a tick ahead */
		score = ((u64)age << 3 | i | 1ULL << 40 | (first >> i & 1) << 41) * (ways >> i & 1);
		score &= sign_of(rest_of(nat, tag) - age - 1, conf->zero);
		best_half = max_of(best_half, score * half, conf->zero);
		best_free = max_of(best_free, score * (1 - half), conf->zero);
	}
	states = states_of(bucket);
	if (find_way(bucket, key) < WAYS)
		return room;
	if (best_free && half_open_ways(states) < HALF_OPEN_MAX) {
		room.way = best_free & (WAYS - 1);
		room.rank = 2 * WAYS + 1 - used_ways(states);
	} else if (best_half) {
		room.way = best_half & (WAYS - 1);
		room.rank = WAYS + 1 - used_ways(states);
	}
	return room;
}

/* Whether a new session may take a way with that tag. */
static __always_inline bool has_rested(const struct nat_conf *nat, u64 tag, u32 now)
{
	s64 age = (s32)(now - (u32)tag);

	return (age > 0 ? age : 0) >= rest_of(nat, tag);
}

/*
 * Return the slot for a new session at that place, whose buckets may be swapped; NO_SLOT: there is none. Nearly always
 * a way of the emptier bucket is free, and nothing is better: that is found without the search, which costs 40 ns.
 */
static __always_inline u32 find_slot(const struct conf *conf, const struct nat_conf *nat, u64 owns,
				     struct session_place *place)
{
	u32 slot = NO_SLOT, rank = 0, i;
	u64 states, other_states, chosen, swapped, free;
	struct session_bucket *bucket;
	struct room room;

	bucket = session_tags.lookup(&place->bucket[0]);
	if (!bucket)
		return NO_SLOT; /* never */
	states = states_of(bucket);
	bucket = session_tags.lookup(&place->bucket[1]);
	if (!bucket)
		return NO_SLOT; /* never */
	other_states = states_of(bucket);
	chosen = sign_of(used_ways(other_states) - used_ways(states), conf->zero);
	states ^= (states ^ other_states) & chosen;
	swapped = (place->bucket[0] ^ place->bucket[1]) & chosen;
	place->bucket[0] ^= swapped;
	place->bucket[1] ^= swapped;
	bucket = session_tags.lookup(&place->bucket[0]);
	if (!bucket)
		return NO_SLOT; /* never */
	FORGET(conf, owns);
	free = free_way(bucket, owns);
	if (free < FREE_END && half_open_ways(states) < HALF_OPEN_MAX && find_way(bucket, place->key) == WAYS)
		return place->bucket[0] * WAYS + (free & (WAYS - 1));
#pragma clang loop unroll(disable)
	for (i = 0; i < 2; i++) {
		bucket = session_tags.lookup(&place->bucket[0]);
		if (!bucket)
			return NO_SLOT; /* never */
		FORGET(conf, owns);
		room = find_room(conf, nat, bucket, place->key, now_tick(), owns);
		if (room.rank > rank) {
			rank = room.rank;
			slot = place->bucket[0] * WAYS + room.way;
		}
		place->bucket[0] = place->bucket[1];
		FORGET(conf, rank);
		FORGET(conf, slot);
	}
	return slot;
}
#endif
