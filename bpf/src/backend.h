/* SPDX-License-Identifier: GPL-2.0-only */
/* The choice of a new session's backend. The agent offers only those that take new sessions. */
#pragma once

#include "flow.h"
#include "lb.h"
#include "nat_layout.h"
#include "packet.h"
#include "service.h"
#include "verifier.h"

#if NAT
#define LEAST_MAX 16 /* backends that are compared: of more, so many in a row from a random one on */

/* Return the one with the least sessions for its weight, of those in this node's view. */
static __always_inline u32 least_loaded(const struct conf *conf, const struct nat_choices *choices, u32 count)
{
	u64 at = count > LEAST_MAX ? bpf_get_prandom_u32() % count : 0, best = 0, i;
	u64 load = 1, weight = 0, less; /* of the best: more than any */
	const struct nat_choice *choice;
	struct backend_load *entry;
	u32 backend;

	FORGET(conf, load);
	FORGET(conf, weight);
#pragma clang loop unroll(disable)
	for (i = 0; i < LEAST_MAX; i++) {
		asm volatile("" : "+r"(i)); /* else clang counts from `count` down, without a bound that is known */
		if (i >= count)
			break;
		asm volatile("%0 &= 255" : "+r"(at));
		choice = &choices->choice[at];
		backend = choice->backend;
		entry = backend_loads.lookup(&backend);
		if (!entry)
			break; /* never */
		less = sign_of(entry->active * weight - load * choice->weight, conf->zero);
		load ^= (load ^ entry->active) & less;
		weight ^= (weight ^ choice->weight) & less;
		best ^= (best ^ backend) & less;
		at = (at + 1) & sign_of(at + 1 - count, conf->zero);
	}
	FORGET(conf, best);
	return best;
}

/* Return the backend's index; 0: the service has none that takes new sessions. */
static __always_inline u32 choose_backend(const struct conf *conf, u32 service_slot, u32 hash, const struct packet *pkt)
{
	struct nat_service *service = nat_services.lookup(&service_slot);
	struct nat_choices *choices = nat_choices.lookup(&service_slot);
	struct service hashed = {};
	u32 count, at;

	if (!service || !choices || !service->choices)
		return 0;
	count = service->choices;
	switch (service->balance) {
	case BALANCE_LEAST_CONNECTIONS:
		return least_loaded(conf, choices, count);
	case BALANCE_HASH:
		hashed.affinity = service->affinity;
		if (hashed.affinity != AFFINITY_FIVE_TUPLE)
			hash = flow_hash(conf->hash_key[active_bank(conf)], &hashed, pkt);
		at = (u64)mix(hash ^ GOLDEN) * count >> 32;
		break;
	default:
		at = __sync_fetch_and_add(&service->turn, 1) % count;
	}
	asm volatile("%0 &= 255" : "+r"(at));
	return choices->choice[at].backend;
}
#endif
