/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The maps. maps.py makes them from map_spec.py's sizes and pins them before this is compiled, so the
 * declarations here only name and type them: BCC opens the pin and checks nothing.
 */

BPF_TABLE_PINNED("array", u32, struct conf, confs, 1, PINS "/confs");
BPF_TABLE_PINNED("array", u32, struct uplink, uplinks, UPLINKS, PINS "/uplinks");
BPF_TABLE_PINNED("hash", struct service_key, struct service, services, SERVICES, PINS "/services");
BPF_TABLE_PINNED("array", u32, struct front, front, SERVICE_CACHE, PINS "/front");
BPF_TABLE_PINNED("array", u32, struct node, nodes, NODES, PINS "/nodes");
BPF_TABLE_PINNED("percpu_array", u32, struct stats, stats, SLOTS, PINS "/stats");

/*
 * Slot, and SLOTS more for the second side -> array[ROWS] of struct row. A whole table is written aside, then swapped
 * in at once.
 */
BPF_TABLE_PINNED("array_of_maps", u32, u32, rows, BANKS *SLOTS, PINS "/rows");

/* Likewise -> array[ROWS] of u64: until when (CLOCK_MONOTONIC, ns) a miss of this row is dropped, 0 = no longer. */
BPF_TABLE_PINNED("array_of_maps", u32, u32, grace, BANKS *SLOTS, PINS "/grace");

/* Where the two rows of a packet are put together; no program interrupts another on a CPU. */
BPF_TABLE_PINNED("percpu_array", u32, struct row, joint, 1, PINS "/joint");

/* How far this CPU has used up time (CLOCK_MONOTONIC, ns) of each of its budgets; see ratelimit.h. */
BPF_TABLE_PINNED("percpu_array", u32, u64, spent, RATE_LIMITS, PINS "/spent");

/* Prefixes of node addresses, and the deny list: being there is all that counts. */
BPF_TABLE_PINNED("lpm_trie", struct prefix, u32, node_prefixes, PREFIXES, PINS "/node_prefixes");
BPF_TABLE_PINNED("lpm_trie", struct prefix, u32, denied, PREFIXES, PINS "/denied");

BPF_TABLE_PINNED("array", u32, struct sampling, sampling, 1, PINS "/sampling");

/* Sampled packets, on their way to a reader. BCC has a macro for ring buffers, but not for one that is pinned. */
struct samples_ring {
	int key;
	u32 leaf;
	void *(*ringbuf_reserve)(u64 size);
	void (*ringbuf_submit)(void *data, u64 flags);
	u32 max_entries;
};
__attribute__((section("maps/ringbuf:" PINS "/samples"))) struct samples_ring samples = { .max_entries = 64 };
