/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Makes a session, in a slot that new_slot.h finds. A way is taken by compare-and-exchange to BUSY; then the record is
 * written, then the tag.
 */
#pragma once

#include "backend.h"
#include "lb.h"
#include "nat_layout.h"
#include "new_slot.h"
#include "packet.h"
#include "session.h"
#include "track.h"
#include "verifier.h"

#if NAT
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
	struct session_place place;
	struct backend_load *load;
	u32 now, backend, slot;
	u64 *tag, before;

	*event = DROP_NAT_FULL;
	find_place(nat->bucket_bits, hash, pkt, &place);
	slot = find_slot(conf, nat, owns, &place);
	FORGET_NOW(conf, slot);
	if (slot == NO_SLOT)
		return NO_SLOT;
	backend = choose_backend(conf, service_slot, hash, pkt);
	FORGET(conf, backend);
	if (!backend) {
		*event = DROP_NAT_NO_BACKEND;
		return NO_SLOT;
	}
	tag = find_tag(slot);
	if (!tag)
		return NO_SLOT; /* never */
	/* Not before: the search leaves no room for it on the stack. */
	now = now_tick();
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
