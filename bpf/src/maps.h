/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The maps. maps.py makes them by map_spec.py's sizes and pins them before this is compiled, so the declarations here
 * only name and type them: BCC opens the pin and checks nothing.
 */
#pragma once

#include "lb.h"

BPF_TABLE_PINNED("array", u32, struct conf, confs, 1, PINS "/confs");
BPF_TABLE_PINNED("array", u32, struct uplink, uplinks, UPLINKS, PINS "/uplinks");
BPF_TABLE_PINNED("array", u32, struct vlan_set, vlans, 1, PINS "/vlans");
BPF_TABLE_PINNED("hash", struct service_key, struct service, services, SERVICES, PINS "/services");
BPF_TABLE_PINNED("array", u32, struct cached_service, service_cache, SERVICE_CACHE, PINS "/service_cache");
BPF_TABLE_PINNED("array", u32, struct node, nodes, NODES, PINS "/nodes");
BPF_TABLE_PINNED("percpu_array", u32, struct stats, stats, SLOTS, PINS "/stats");

/* A table's number (see TABLES) -> array[ROWS] of struct row. A whole table is made aside, then swapped in at once. */
BPF_TABLE_PINNED("array_of_maps", u32, u32, rows, BANKS *SLOTS, PINS "/rows");

/* Likewise -> array[ROWS] of u64: until when (CLOCK_MONOTONIC, ns) a miss of this row is dropped; 0: no longer. */
BPF_TABLE_PINNED("array_of_maps", u32, u32, grace, BANKS *SLOTS, PINS "/grace");

/* Where the two rows of a packet are joined; no program interrupts another on a CPU. */
BPF_TABLE_PINNED("percpu_array", u32, struct row, joint, 1, PINS "/joint");

/* How far this CPU has used up time (CLOCK_MONOTONIC, ns) of each rate limit; see ratelimit.h. */
BPF_TABLE_PINNED("percpu_array", u32, u64, spent, RATE_LIMITS, PINS "/spent");

/* Prefixes of node addresses, and the deny list: only the keys matter. */
BPF_TABLE_PINNED("lpm_trie", struct prefix, u32, node_prefixes, PREFIXES, PINS "/node_prefixes");
BPF_TABLE_PINNED("lpm_trie", struct prefix, u32, denied, PREFIXES, PINS "/denied");

/* One IPv4 prefix of node addresses: address in the lower half, mask in the upper, as in a packet; 0: none. */
BPF_TABLE_PINNED("array", u32, u64, node_prefix4, 1, PINS "/node_prefix4");

BPF_TABLE_PINNED("array", u32, struct echo_state, echo_state, 1, PINS "/echo_state");

BPF_TABLE_PINNED("array", u32, struct sampling, sampling, 1, PINS "/sampling");

/* Sampled packets, until they are read. BCC has a macro for ring buffers, but not for pinned ones. */
struct samples_ring {
	int key;
	u32 leaf;
	void *(*ringbuf_reserve)(u64 size);
	void (*ringbuf_submit)(void *data, u64 flags);
	u32 max_entries;
};
__attribute__((section("maps/ringbuf:" PINS "/samples"))) struct samples_ring samples = { .max_entries = 64 };

/* Of the packets that were fragmented last: the least recently used makes room. */
BPF_TABLE_PINNED("lru_hash", struct fragment_key, struct first_fragment, first_fragments, FIRST_FRAGMENTS,
		 PINS "/first_fragments");

/* Where tail calls lead. Each build of PROGRAM has an array of its own: see program.py. */
BPF_TABLE("prog", u32, u32, programs, TAIL_CALLS);
