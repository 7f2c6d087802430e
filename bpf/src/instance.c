/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The sk_reuseport program: which listener gets a new connection, of those that share an address and port by
 * SO_REUSEPORT. It runs for each new connection (its SYN, and its ACK with SYN cookies), and again for what waits in
 * the queues of a listener that closes. Established connections never come here.
 *
 * The agent decides: it writes the order in which listeners are tried. A listener that is closed has left the map, so
 * the next one is found without the agent. If none is found, the kernel chooses by its own hash, as without a program.
 */
#include <uapi/linux/bpf.h>

BPF_TABLE_PINNED("array", u32, u64, choices, CELLS, PINS "/choices");

#define PASS 1       /* SK_PASS: with what was selected, else with the kernel's choice */
#define MAP_BY_FD 1  /* BPF_PSEUDO_MAP_FD */
#define PLACE_BITS 8 /* of a cell: slot + 1; 0 ends it (bpf/layout/instance.py) */

static int (*select_listener)(void *ctx, void *map, void *slot, u64 flags) = (void *)BPF_FUNC_sk_select_reuseport;

int PROGRAM(struct sk_reuseport_md *ctx)
{
	/* The kernel's own hash of addresses and ports: the same when a client sends its SYN again. */
	u32 cell = ctx->hash % CELLS, slot;
	u64 *choice = choices.lookup(&cell), places;

	if (!choice)
		return PASS;
	places = *choice;
	for (int i = 0; i < PLACES && places; i++, places >>= PLACE_BITS) {
		slot = (places & ((1 << PLACE_BITS) - 1)) - 1;
		if (!select_listener(ctx, (void *)bpf_pseudo_fd(MAP_BY_FD, LISTENERS), &slot, 0))
			break;
	}
	return PASS;
}
