/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Makes a session: in the emptier of the flow's two buckets, and there in the way that was left the longest ago, so
 * that a NAT endpoint rests before it is used again.
 *
 * A way is taken by compare-and-exchange to BUSY; then the record is written, then the tag. A row's owner uses the
 * first OWNER_WAYS ways, and any other node the rest: while nodes disagree about the owner, two of them do not use one
 * endpoint. Rather than refuse a session, the owner takes a way of the rest too. Half a bucket may be half-open: the
 * rest is for connections, whatever floods. A half-open session makes room after a few seconds if there is no other.
 * Established ones never do.
 */
#pragma once

#include "backend.h"
#include "lb.h"
#include "nat_layout.h"
#include "packet.h"
#include "session.h"
#include "track.h"
#include "verifier.h"

#if NAT
#define HALF_OPEN_MAX (WAYS / 2)
#define FREE_RANK (WAYS + 1) /* of a free way at least; of a half-open one it is less */

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

/* Return the ticks after its stamp from which on a new session may take the slot of that tag. */
static __always_inline s64 rest_of(const struct nat_conf *nat, u64 tag)
{
	u64 place = (tag >> 39 & 14) | (tag >> 36 & 1);

	asm("%0 &= 15" : "+r"(place)); /* Linux 6.1 does not know that an OR of two bounded numbers is bounded */
	return nat->rest[place];
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
	u64 best_free = 0, best_half = 0, used = 0, half_open = 0, same = 0, differs, score, half, tag, i;
	struct room room = {};
	s64 age;

#pragma clang loop unroll(disable)
	for (i = 0; i < WAYS; i++) {
		tag = *(volatile u64 *)&bucket->tag[way_of_slot(i)];
		differs = (tag ^ key) & TAG_KEY;
		same += 1 - ((differs | -differs) >> 63);
		half = is_half_open(tag);
		half_open += half;
		used += (tag_state(tag) + 7) >> 3; /* FREE is 0 */
		age = (s32)(now - (u32)tag);       /* of a way that was never used, the most */
		age &= ~sign_of(age, conf->zero);  /* another CPU may be a tick ahead */
		score = ((u64)age << 3 | i | 1ULL << 40 | (first >> i & 1) << 41) * (ways >> i & 1);
		score &= sign_of(rest_of(nat, tag) - age - 1, conf->zero);
		best_half = max_of(best_half, score * half, conf->zero);
		best_free = max_of(best_free, score * (1 - half), conf->zero);
	}
	if (same)
		return room;
	if (best_free && half_open < HALF_OPEN_MAX) {
		room.way = best_free & (WAYS - 1);
		room.rank = FREE_RANK + WAYS - used;
	} else if (best_half) {
		room.way = best_half & (WAYS - 1);
		room.rank = FREE_RANK - used;
	}
	return room;
}

/* Return how many ways of a bucket are used. */
static __always_inline u64 used_ways(const struct session_bucket *bucket)
{
	u64 used = 0, i;

#pragma unroll
	for (i = 0; i < WAYS; i++)
		used += (tag_state(*(volatile u64 *)&bucket->tag[i]) + 7) >> 3; /* FREE is 0 */
	return used;
}

/* Whether a new session may take a way with that tag. */
static __always_inline bool has_rested(const struct nat_conf *nat, u64 tag, u32 now)
{
	s64 age = (s32)(now - (u32)tag);

	return (age > 0 ? age : 0) >= rest_of(nat, tag);
}

static __always_inline u16 fold_sum(u64 sum)
{
	sum = (u32)sum + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	return (sum & 0xffff) + (sum >> 16);
}

#define TTL_LESS 0xfffe /* one less in the first byte of a word */

/* The checksum differences; those of the addresses are sums of 32-bit words. See bpf/layout/session.py. */
static __always_inline void write_sums(struct session *session, u64 to_backend, u64 to_client)
{
	u32 client_ports = (u16)~session->client_port + (u32)(u16)~session->vip_port;
	u32 backend_ports = (u16)~session->backend_port + (u32)(u16)~session->nat_port;
	bool four = session->family == 4;

	session->sums[0] = four ? fold_sum(to_backend + TTL_LESS) : 0;
	session->sums[1] = fold_sum(to_backend + client_ports + session->nat_port + session->backend_port);
	session->sums[2] = four ? fold_sum(to_client + TTL_LESS) : 0;
	session->sums[3] = fold_sum(to_client + backend_ports + session->vip_port + session->client_port);
}

static __always_inline void write_rest(struct session *session, const struct nat_conf *nat, const struct packet *pkt,
				       const struct backend *backend, u32 index, u32 slot, u32 service_slot, u32 now)
{
	session->client_port = pkt->client_port;
	session->vip_port = pkt->vip_port;
	session->backend_port = backend->port;
	session->nat_port = htons(FIRST_PORT | (slot & ((1 << PORT_BITS) - 1)));
	session->protocol = pkt->protocol;
	session->family = pkt->family;
	session->backend_index = index;
	session->service_slot = service_slot;
	session->bucket_bits = nat->bucket_bits;
	session->created = now;
	session->client_ack = 0;
	session->backend_ack = 0;
}

static __always_inline bool write_record4(const struct nat_conf *nat, const struct packet *pkt,
					  const struct backend *backend, u32 index, u32 slot, u32 service_slot, u32 now)
{
	struct session4 *record = sessions4.lookup(&slot);

	if (!record)
		return false;
	record->client = pkt->client[0];
	record->vip = pkt->vip[0];
	record->backend = backend->address[0];
	record->nat = (nat->last4 & ~nat->hosts4) | htonl(slot >> PORT_BITS);
	write_rest(&record->rest, nat, pkt, backend, index, slot, service_slot, now);
	write_sums(&record->rest, (u64)(u32)~record->client + (u32)~record->vip + record->nat + record->backend,
		   (u64)(u32)~record->backend + (u32)~record->nat + record->vip + record->client);
	return true;
}

#if NAT6
static __always_inline u64 sum_of_address(const __be32 *address)
{
	return (u64)address[0] + address[1] + address[2] + address[3];
}

static __always_inline bool write_record6(const struct nat_conf *nat, const struct packet *pkt,
					  const struct backend *backend, u32 index, u32 slot, u32 service_slot, u32 now)
{
	const u64 all = 4 * 0xffffffffULL; /* the complement of a sum of four words is this less the sum */
	struct session6 *record = sessions6.lookup(&slot);
	u64 client, vip, to;

	if (!record)
		return false;
	__builtin_memcpy(record->client, pkt->client, sizeof(record->client));
	__builtin_memcpy(record->vip, pkt->vip, sizeof(record->vip));
	__builtin_memcpy(record->backend, backend->address, sizeof(record->backend));
	__builtin_memcpy(record->nat, nat->last6, sizeof(record->nat));
	record->nat[3] = (nat->last6[3] & ~nat->hosts6) | htonl(slot >> PORT_BITS);
	write_rest(&record->rest, nat, pkt, backend, index, slot, service_slot, now);
	client = sum_of_address(record->client);
	vip = sum_of_address(record->vip);
	to = sum_of_address(record->nat) + sum_of_address(record->backend);
	write_sums(&record->rest, 2 * all - client - vip + to, 2 * all - to + client + vip);
	return true;
}
#endif

/* Take the way at `tag`, in which `before` was, and write the session there. */
static __always_inline bool take_way(const struct nat_conf *nat, u64 *tag, u64 before, u64 key, u32 slot,
				     const struct packet *pkt, u32 backend_index, u32 service_slot, u32 now)
{
	u64 busy = key | (u64)SESSION_BUSY << 40 | now, after = key | (u64)SESSION_SYN << 40 | now;
	const struct backend *backend = backends.lookup(&backend_index);
	const struct session *old;
	bool written;

	if (!backend || backend->family != pkt->family || __sync_val_compare_and_swap(tag, before, busy) != before)
		return false;
	if (tag_state(before) == SESSION_SYN) {
		old = tag_flags(before) & TAG_IPV6 ? find_rest6(slot) : find_rest4(slot);
		if (old)
			add_active(old->backend_index, -1);
	}
#if NAT6
	if (pkt->family == 6)
		written = write_record6(nat, pkt, backend, backend_index, slot, service_slot, now);
	else
#endif
		written = write_record4(nat, pkt, backend, backend_index, slot, service_slot, now);
	if (!written)
		return false;                          /* never: the tag would stay BUSY for a while */
	__sync_val_compare_and_swap(tag, busy, after); /* a barrier too */
	report_change(nat, slot, before, after);
	return true;
}

/*
 * Make a session for the packet. Returns its slot, or NO_SLOT with why in `event`. `owns`: this node is the row's
 * owner, and no other one may still hand over its sessions.
 */
static __always_inline u32 make_session(const struct conf *conf, const struct nat_conf *nat, u32 hash, u32 service_slot,
					bool owns, const struct packet *pkt, enum counter *event)
{
	u64 role = owns;
	u32 now = now_tick(), backend, slot = 0, index, i;
	struct room room = {}, other;
	struct session_bucket *bucket, *second;
	struct session_place place;
	struct backend_load *load;
	u64 *tag, before, chosen;

	*event = DROP_NAT_FULL;
	find_place(nat->bucket_bits, hash, pkt, &place);
	/* The emptier bucket first: if a way is free there, nothing is better. */
	bucket = session_tags.lookup(&place.bucket[0]);
	second = session_tags.lookup(&place.bucket[1]);
	if (!bucket || !second)
		return NO_SLOT; /* never */
	chosen = sign_of(used_ways(second) - used_ways(bucket), conf->zero);
	index = place.bucket[0] ^ ((place.bucket[0] ^ place.bucket[1]) & chosen);
	FORGET_NOW(conf, index);
#pragma clang loop unroll(disable)
	for (i = 0; i < 2; i++) {
		bucket = session_tags.lookup(&index);
		if (!bucket)
			return NO_SLOT; /* never */
		FORGET(conf, role);
		other = find_room(conf, nat, bucket, place.key, now, role);
		if (other.rank > room.rank) {
			room = other;
			slot = index * WAYS;
		}
		FORGET(conf, room.way);
		FORGET(conf, room.rank);
		FORGET(conf, slot);
		if (room.rank >= FREE_RANK)
			break;
		index ^= place.bucket[0] ^ place.bucket[1];
	}
	FORGET_NOW(conf, room.rank);
	FORGET_NOW(conf, room.way);
	FORGET_NOW(conf, slot);
	if (!room.rank)
		return NO_SLOT;
	slot += room.way;
	backend = choose_backend(conf, service_slot, hash, pkt);
	FORGET(conf, backend);
	if (!backend) {
		*event = DROP_NAT_NO_BACKEND;
		return NO_SLOT;
	}
	tag = find_tag(slot);
	if (!tag)
		return NO_SLOT; /* never */
	before = *(volatile u64 *)tag;
	if (!has_rested(nat, before, now) ||
	    !take_way(nat, tag, before, place.key, slot, pkt, backend, service_slot, now))
		return NO_SLOT; /* another CPU was faster */
	load = backend_loads.lookup(&backend);
	if (load) {
		__sync_fetch_and_add(&load->active, 1);
		__sync_fetch_and_add(&load->chosen, 1);
	}
	*event = FORWARD_BACKEND;
	return slot;
}

/*
 * Close a session, whose tag is `before`: its client opens a new one with the same ports, while the old one's ends have
 * closed it. No packet of a client finds an even fingerprint, and the endpoint rests as after any other session.
 */
static __always_inline void retire(const struct nat_conf *nat, u32 slot, u64 before)
{
	u64 *tag = find_tag(slot), after;
	struct session *session;

	if (!tag)
		return;
	after = make_tag(before >> 48 & ~1ULL, SESSION_CLOSED, tag_flags(before), now_tick());
	session = tag_flags(before) & TAG_IPV6 ? find_rest6(slot) : find_rest4(slot);
	if (__sync_val_compare_and_swap(tag, before, after) != before)
		return;
	if (session && tag_state(before) == SESSION_FIN)
		add_active(session->backend_index, -1);
	report_change(nat, slot, before, after);
}
#endif
