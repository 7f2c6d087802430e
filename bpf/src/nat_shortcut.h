/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * NAT: the shortcut for most of its packets, within the first program: plain ones over IPv4, of an established session,
 * at the owner of their row or forwarded to this node. Such a packet changes no state but the stamp. The whole path
 * (nat.h), which gives the same result, costs twice as much: it is a program of its own, for all cases.
 *
 * Until all is known nothing is written, so that any other packet can still go the whole path. Both share the functions
 * that judge and rewrite.
 */
#pragma once

#include "forward.h"
#include "handle.h"
#include "lb.h"
#include "nat_flow.h"
#include "nat_layout.h"
#include "nat_pool.h"
#include "packet.h"
#include "service.h"
#include "session.h"
#include "stats.h"
#include "track.h"
#include "translate.h"

#if NAT
/*
 * Read one of a bucket's records. Which of them is wanted is known only once the tags have come from memory; but they
 * are neighbors, so that the wanted one comes sooner then: 340 ns for a packet of a million sessions instead of 400.
 */
static __always_inline void read_ahead(u32 bucket)
{
	u32 slot = bucket * WAYS;
	const struct session4 *record = sessions4.lookup(&slot);

	if (record)
		asm volatile("" : : "r"(*(volatile u32 *)&record->client));
}

/*
 * Return the slot in which the session of a client's packet most likely is: its tag is one of that flow, and the record
 * has to be compared. NO_SLOT: there is none.
 */
static __always_inline u32 likely_slot(u32 bucket_bits, u32 hash, const struct packet *pkt)
{
	struct session_bucket *first, *second;
	struct session_place place;
	u32 way;

	find_place(bucket_bits, hash, pkt, &place);
	first = session_tags.lookup(&place.bucket[0]);
	second = session_tags.lookup(&place.bucket[1]);
	if (!first || !second)
		return NO_SLOT; /* never */
	/* Read at once: with many sessions neither is in the cache, and the CPU fetches both at the same time. */
	asm volatile("" : : "r"(*(volatile u64 *)second->tag));
	read_ahead(place.bucket[0]);
	read_ahead(place.bucket[1]);
	way = find_way(first, place.key);
	if (way < WAYS)
		return place.bucket[0] * WAYS + way;
	way = find_way(second, place.key);
	return way < WAYS ? place.bucket[1] * WAYS + way : NO_SLOT;
}

/* Whether the tag is of an established session, of the packet's family and protocol. */
static __always_inline bool is_established(u64 tag, const struct packet *pkt)
{
	const u32 looked_at = 0xff << 8 | TAG_IPV6 | TAG_UDP;

	return !(((u32)(tag >> 32) ^ (SESSION_EST << 8 | family_flags(pkt))) & looked_at);
}

/* Send a packet of an established session to its other end. Returns the XDP verdict; FOR_NAT: it is as it came. */
static __always_inline int pass_on_established(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
					       bool reply, struct packet *pkt)
{
	const u32 transport = sizeof(struct ethhdr) + sizeof(struct iphdr);
	const struct nat_conf *nat = find_nat_conf();
	struct segment segment = {};
	struct service five_tuple = {};
	const struct nat_hop *hop;
	struct session4 *four;
	struct row *row;
	struct stats *s;
	u32 slot = NO_SLOT, hash = 0, r, now;
	u64 *tag, before;
	void *data, *end;

	FORGET_NOW(conf, pkt->protocol); /* the verifier walks all that follows once for TCP and UDP together */
	FORGET_NOW(conf, pkt->opens);
	FORGET_NOW(conf, pkt->tcp);
	FORGET_NOW(conf, pkt->hop);
	FORGET_NOW(conf, pkt->in_grace);
	FORGET_NOW(conf, pkt->prev);
	if (!nat || (!reply && pkt->protocol == IPPROTO_TCP && pkt->opens))
		return FOR_NAT;
	if (reply) {
		slot = slot_of_endpoint(nat, pkt);
		r = slot / WAYS % NAT_ROWS;
	} else {
		hash = flow_hash(conf->hash_key[active_bank(conf)], &five_tuple, pkt);
		r = hash & (NAT_ROWS - 1);
	}
	row = find_row(nat->table + active_bank(conf) * SLOTS, r);
	if (!row || (row->node[0] != conf->self && !pkt->hop))
		return FOR_NAT;
	if (!reply)
		slot = likely_slot(nat->bucket_bits, hash, pkt);
	four = sessions4.lookup(&slot);
	tag = find_tag(slot);
	if (!four || !tag)
		return FOR_NAT;
	asm volatile("" : "+r"(four)); /* clang must not add the offset before the test */
	before = *(volatile u64 *)tag;
	if (!is_established(before, pkt) || !is_of_record4(four, reply, pkt))
		return FOR_NAT;
	hop = find_hop(nat, &four->rest, reply);
	if (!hop || !hop->known || hop->vlan || pkt->length > hop->mtu || is_last_hop(ctx, pkt))
		return FOR_NAT;
	if (pkt->protocol == IPPROTO_TCP) {
		if (!read_segment(ctx, transport, &segment) ||
		    (segment.flags & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK)) != TCP_ACK)
			return FOR_NAT;
		store_acks(&four->rest, SESSION_EST, &segment, reply);
	}
	now = now_tick();
	if ((u32)before != now) /* another CPU may be faster: that is as good */
		__sync_val_compare_and_swap(tag, before, (before & ~0xffffffffULL) | now);
	s = stats_of(four->rest.service_slot);
	if (!s || !rewrite_link(ctx, uplink, hop, sizeof(struct ethhdr), pkt))
		return XDP_DROP; /* never */
	data = frame_start(ctx);
	end = frame_end(ctx);
	if (!rewrite4(data + sizeof(struct ethhdr), end, four, reply) ||
	    !rewrite_transport(data + transport, end, &four->rest, reply))
		return XDP_DROP; /* never */
	count_arrival(s, pkt);
	count(s, reply ? FORWARD_CLIENT : FORWARD_BACKEND);
	return leave_by(ctx, uplink, hop);
}
#endif
