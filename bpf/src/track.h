/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Follows a session by its packets: its state, the numbers by which forged segments are known, its backend's count.
 *
 *	SYN -> EST: UDP by a reply; TCP by an acknowledgment of the SYN-ACK that was seen. Without that test, a forged
 *	            SYN and a forged ACK would hold a slot for an hour.
 *	EST -> FIN by the first FIN; FIN -> CLOSED by a segment with ACK once both ends have sent FIN.
 *	Any -> CLOSED by a RST.
 *
 * A FIN or RST counts if its sequence number is within RESET_WINDOW of what the other end has acknowledged: one that is
 * forged off the path must not end a session. After a FIN a forged SYN would, as the client's next connection.
 */
#pragma once

#include "cursor.h"
#include "lb.h"
#include "nat_layout.h"
#include "packet.h"
#include "session.h"

#if NAT
#define RESET_WINDOW (1 << 20)
#define ACK_STEP (1 << 18) /* bytes by which a stored acknowledgment number may be behind */

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

#define TAG_FINS (TAG_CLIENT_FIN | TAG_BACKEND_FIN)

/* What a TCP header has beside the ports. */
struct segment {
	u32 seq, ack;
	u8 flags; /* TCP_* */
};

/* Read it at that offset in the frame; return false if it is not there. */
static __always_inline bool read_segment(struct xdp_md *ctx, u32 transport, struct segment *segment)
{
	const struct tcphdr *tcp = frame_start(ctx) + (transport & HEADERS_END);

	if ((void *)(tcp + 1) > frame_end(ctx))
		return false;
	segment->seq = ntohl(tcp->seq);
	segment->ack = ntohl(tcp->ack_seq);
	segment->flags = ((const u8 *)tcp)[13];
	return true;
}

static __always_inline bool is_near(u32 a, u32 b, u32 window)
{
	return a - b + window <= 2 * window;
}

/* Whether a RST is to be believed. Before the SYN-ACK, the backend's must acknowledge the SYN. */
static __always_inline bool is_reset_valid(const struct session *session, u32 state, u32 flags,
					   const struct segment *segment, bool reply)
{
	if (!reply)
		return is_near(segment->seq, session->backend_ack, RESET_WINDOW);
	if (state == SESSION_SYN && !(flags & TAG_SYNACK_SEEN))
		return segment->flags & TCP_ACK && segment->ack == session->backend_ack;
	return is_near(segment->seq, session->client_ack, RESET_WINDOW);
}

/*
 * Store the acknowledgment numbers, rarely: a record that is written is slower to read on other CPUs. SYN and SYN-ACK
 * show the least that the other end will acknowledge; until that is done, nothing else is believed.
 */
static __always_inline void store_acks(struct session *session, u32 state, const struct segment *segment, bool reply)
{
	u32 *ack = reply ? &session->backend_ack : &session->client_ack;
	u32 both = segment->flags & (TCP_SYN | TCP_ACK);

	if (state == SESSION_SYN) {
		if (both == TCP_SYN && !reply)
			session->backend_ack = segment->seq + 1;
		if (both == (TCP_SYN | TCP_ACK) && reply)
			session->client_ack = segment->seq + 1;
	} else if (both == TCP_ACK && !(segment->flags & TCP_RST) && !is_near(segment->ack, *ack, ACK_STEP)) {
		*ack = segment->ack;
	}
}

/* Return the tag after a segment; its stamp is not changed. `far`: it is a RST that is not believed. */
static __always_inline u64 tag_after_segment(const struct session *session, u64 tag, const struct segment *segment,
					     bool reply, bool *far)
{
	u32 state = tag_state(tag), flags = tag_flags(tag), tcp = segment->flags;

	if (state == SESSION_CLOSED || (state == SESSION_EST && !(tcp & (TCP_FIN | TCP_SYN | TCP_RST))))
		return tag; /* nearly all */
	if (tcp & TCP_RST) {
		*far = !is_reset_valid(session, state, flags, segment, reply);
		return *far ? tag : make_tag(tag >> 48, SESSION_CLOSED, flags | TAG_RESET, tag);
	}
	if (tcp & TCP_FIN && is_near(segment->seq, reply ? session->client_ack : session->backend_ack, RESET_WINDOW)) {
		if (reply && !(flags & TAG_FINS))
			flags |= TAG_CLOSED_BY_BACKEND;
		flags |= reply ? TAG_BACKEND_FIN : TAG_CLIENT_FIN;
	}
	if (reply && (tcp & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK))
		flags |= TAG_SYNACK_SEEN;
	if (state == SESSION_SYN && !reply && (tcp & (TCP_SYN | TCP_ACK)) == TCP_ACK && flags & TAG_SYNACK_SEEN &&
	    is_near(segment->ack, session->client_ack, RESET_WINDOW))
		state = SESSION_EST;
	if (state == SESSION_EST && flags & TAG_FINS)
		state = SESSION_FIN;
	if (state == SESSION_FIN && (flags & TAG_FINS) == TAG_FINS && (tcp & (TCP_ACK | TCP_FIN)) == TCP_ACK)
		state = SESSION_CLOSED;
	return make_tag(tag >> 48, state, flags, tag);
}

static __always_inline u64 tag_after_datagram(u64 tag, bool reply)
{
	u32 state = tag_state(tag);

	return make_tag(tag >> 48, reply && state == SESSION_SYN ? SESSION_EST : state, tag_flags(tag), tag);
}

/* Report a tag's change to the agent, which asks for it only while someone watches. */
static __always_inline void report_change(const struct nat_conf *nat, u32 slot, u64 before, u64 after)
{
	struct session_event *event;

	if (!(nat->flags & NAT_WATCHED))
		return;
	event = session_events.ringbuf_reserve(sizeof(*event));
	if (!event) /* the reader is too slow */
		return;
	*event = (struct session_event){ .slot = slot, .before = before, .after = after };
	session_events.ringbuf_submit(event, 0);
}

static __always_inline void add_active(u32 backend, s64 difference)
{
	struct backend_load *load = backend_loads.lookup(&backend);

	if (load)
		__sync_fetch_and_add(&load->active, difference);
}

/*
 * Follow a packet of the session. A tag that another CPU changes at the same time is left alone, unless the state
 * depends on this packet: then it is tried once more. Returns whether it is a RST that is not believed.
 */
static __always_inline bool track(const struct nat_conf *nat, u32 slot, struct session *session,
				  const struct segment *segment, const struct packet *pkt, bool reply)
{
	u32 now = now_tick(), i;
	u64 *tag = find_tag(slot), before, after;
	bool far = false;

	if (!tag)
		return false;
	if (pkt->protocol == IPPROTO_TCP)
		store_acks(session, tag_state(*tag), segment, reply);
#pragma clang loop unroll(disable)
	for (i = 0; i < 2; i++) {
		before = *(volatile u64 *)tag;
		after = pkt->protocol == IPPROTO_TCP ? tag_after_segment(session, before, segment, reply, &far)
						     : tag_after_datagram(before, reply);
		if (after == before && (tag_state(after) == SESSION_CLOSED || (u32)after == now || far))
			return far;
		if (__sync_val_compare_and_swap(tag, before, (after & ~0xffffffffULL) | now) == before)
			break;
		if (after == before)
			return far;
	}
	if (i < 2 && tag_state(before) != SESSION_CLOSED && tag_state(after) == SESSION_CLOSED)
		add_active(session->backend_index, -1);
	if (after != before)
		report_change(nat, slot, before, after);
	return far;
}
#endif
