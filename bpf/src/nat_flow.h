/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * NAT: the row of a packet, whether this node owns it, and the session that the packet belongs to. nat.h has the order
 * in which these are asked.
 */
#pragma once

#include "chain.h"
#include "flow.h"
#include "lb.h"
#include "nat_layout.h"
#include "nat_pool.h"
#include "new_session.h"
#include "packet.h"
#include "pick.h"
#include "service.h"
#include "session.h"
#include "verifier.h"

#if NAT
/* What decides about a packet, beside the packet. */
struct nat_flow {
	u32 r;       /* row */
	u32 hash;    /* of a client's packet its flow's */
	u32 slot;    /* of the session; NO_SLOT: none is here */
	u32 counted; /* whose counters it is counted in: its service's */
	u32 reply;   /* from a backend */
};

/* NAT's table as a service, for the rule of pick.h. */
static __always_inline struct service nat_service(const struct nat_conf *nat)
{
	struct service service = {
		.slot = nat->table,
		.up = nat->up,
		.forward = nat->forward,
		.flags = SERVICE_DROP_NO_MEMBER,
	};

	return service;
}

/* Whether other nodes may still hand over sessions of the row. */
static __always_inline bool is_pulled(u32 r)
{
	u64 *until = nat_pulls.lookup(&r);

	return until && *until && bpf_ktime_get_coarse_ns() < *until;
}

/* Whether this node owns the row of either epoch. */
static __always_inline bool owns_row(const struct conf *conf, const struct service *service, u32 r,
				     const struct row *row, const struct packet *pkt)
{
	u32 table = service->slot + active_bank(conf) * SLOTS;
	const struct row *other;

	if (row->node[0] == conf->self)
		return true;
	if (!uses_two_banks(conf, pkt))
		return false;
	other = find_row(other_table(table), other_row(conf, service, r, pkt));
	return other && other->node[0] == conf->self;
}

/*
 * Find the session of a client's packet, by the key of new flows and then by the other one; as find_by_client(). The
 * same for the number of buckets: it changes without the key. The former number is looked for with one bank too: that
 * of an epoch to come is being filled then.
 */
static __always_inline u64 find_client_session(const struct conf *conf, const struct nat_conf *nat,
					       const struct service *service, u32 hash, const struct packet *pkt)
{
	u32 bits = nat->bucket_bits, other = hash, last = bits != nat->former_bits, i;
	u64 found;

	/* Before the loop, out of which clang would move half of it and spill that. */
	if (uses_two_banks(conf, pkt)) {
		other = flow_hash(conf->hash_key[active_bank(conf) ^ 1], service, pkt);
		last = 1;
	}
	FORGET(conf, other);
	FORGET(conf, last);
#pragma clang loop unroll(disable)
	for (i = 0; i < BANKS; i++) {
		found = find_by_client(bits, hash, pkt);
		FORGET(conf, found);
		if ((u32)found != NO_SLOT || i == last)
			return found;
		hash = other;
		bits = nat->former_bits;
	}
	return NO_SLOT;
}

/*
 * A SYN meets a session of its flow: return its slot if it lives, else NO_SLOT; what its ends have closed is retired.
 * Since it was found it may have been freed, and another CPU may have made a session of another flow in its slot: then
 * the fingerprint is another one, and that session is left alone.
 */
static __always_inline u32 reopen(const struct nat_conf *nat, u64 found)
{
	u64 *tag = find_tag(found), now = tag ? *(volatile u64 *)tag : 0;
	u32 state = tag_state(now);

	if ((now ^ found) >> 48 || state == SESSION_BUSY)
		return NO_SLOT;
	if (state < SESSION_FIN)
		return found;
	retire(nat, found, now);
	return NO_SLOT;
}

/* Fill in the packet's row, and its slot if it is to the pool. */
static __always_inline void find_flow(const struct conf *conf, const struct nat_conf *nat,
				      const struct service *service, const struct packet *pkt, struct nat_flow *flow)
{
	flow->slot = NO_SLOT;
	flow->reply = !pkt->service;
	if (flow->reply) {
		flow->slot = slot_of_endpoint(nat, pkt);
		flow->r = flow->slot / WAYS % NAT_ROWS;
		flow->hash = mix(flow->slot);
		flow->counted = nat->table;
	} else {
		flow->hash = flow_hash(conf->hash_key[active_bank(conf)], service, pkt);
		flow->r = flow->hash & (NAT_ROWS - 1);
		flow->counted = pkt->service;
	}
}
#endif
