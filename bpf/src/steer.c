/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The sk_lookup program: gives new connections to a VIP to a listener that has another address or port. It runs in its
 * network namespace for each packet that belongs to no established connection, before the kernel looks for a listener;
 * also for such lookups of the XDP program and of sock_diag, so these find the same.
 *
 * A connection keeps the addresses and ports of its packets, so answers leave from the VIP. Among the listeners that
 * share the address by SO_REUSEPORT, instance.c chooses as ever: it suffices to name one that is open. The kernel
 * removes one that is closed from its place.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/in.h>
#include <linux/types.h>

/* A VIP with its port, 0 for any: as in bpf/layout/steering.py. */
struct steered_key {
	u32 vip[4], port;
};
BPF_TABLE_PINNED("hash", struct steered_key, u32, steered, STEERED_ENTRIES, PINS "/steered");

#define PASS 1      /* SK_PASS: to the listener that was assigned, else as without a program */
#define MAP_BY_FD 1 /* BPF_PSEUDO_MAP_FD */
#define FAMILY_IPV6 10

static void *(*look_up)(void *map, void *key) = (void *)BPF_FUNC_map_lookup_elem;
static int (*assign)(void *ctx, void *sk, u64 flags) = (void *)BPF_FUNC_sk_assign;
static int (*release)(void *sk) = (void *)BPF_FUNC_sk_release;

/* Give the connection to the listener in a place; false if there is none, or it cannot be given this connection. */
static __always_inline bool try_target(struct bpf_sk_lookup *ctx, u32 place)
{
	void *sk = look_up((void *)bpf_pseudo_fd(MAP_BY_FD, TARGETS), &place);
	bool done;

	if (!sk)
		return false;
	done = !assign(ctx, sk, 0);
	release(sk);
	return done;
}

int PROGRAM(struct bpf_sk_lookup *ctx)
{
	struct steered_key key = { .port = ctx->local_port };
	u32 *first, place;

	if (ctx->protocol != IPPROTO_TCP)
		return PASS;
	if (ctx->family == FAMILY_IPV6) {
		key.vip[0] = ctx->local_ip6[0];
		key.vip[1] = ctx->local_ip6[1];
		key.vip[2] = ctx->local_ip6[2];
		key.vip[3] = ctx->local_ip6[3];
	} else {
		key.vip[0] = ctx->local_ip4;
	}
	first = steered.lookup(&key);
	if (!first) {
		key.port = 0;
		first = steered.lookup(&key);
	}
	if (!first)
		return PASS;
	/* Of a port that is exempt from those of `any`, the places are beyond the map: none is found. */
	place = *first;
	for (int i = 0; i < PLACES; i++)
		if (try_target(ctx, place + i))
			break;
	return PASS;
}
