/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The sk_reuseport program: which listener gets a new connection, of those that share an address and port by
 * SO_REUSEPORT. It runs for each new connection (its SYN, and its ACK with SYN cookies), and again for what waits in
 * the queues of a listener that closes. Established connections never come here.
 *
 * The agent decides: it writes the order in which listeners are tried. A listener that is closed has left the map, so
 * the next one is found without the agent. If none is found, the kernel chooses by its own hash, as without a program.
 *
 * UDP has no connections: each datagram comes here. A flow stays with the listener that it had, while that is open,
 * until it is idle for a minute; so a switch is for new flows only.
 *
 * A health check reaches one listener by its source port. Only a connection of this node to itself can be one: a packet
 * from outside with the node's own address as its source cannot become a connection, since the answer stays here. Of
 * UDP Linux drops such a packet for IPv4 (martian source); for IPv6 it reaches the instance that is being checked.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>

/* Of each CPU: the agent may give a connection to the listener of the CPU that handles its SYN. */
BPF_TABLE_PINNED("percpu_array", u32, u64, cpu_choices, CELLS, PINS "/cpu_choices");
BPF_TABLE_PINNED("hash", u32, u32, probes, PROBES, PINS "/probes");

#if UDP
/* Which listener a flow had, and in which second (of 2^30 ns). */
struct flow {
	u32 slot, last;
};
BPF_TABLE_PINNED("lru_hash", u32, struct flow, flows, FLOWS, PINS "/flows");

#define IDLE 60
#endif

#define PASS 1       /* SK_PASS: with what was selected, else with the kernel's choice */
#define MAP_BY_FD 1  /* BPF_PSEUDO_MAP_FD */
#define PLACE_BITS 8 /* of a cell: slot + 1; 0 ends it (bpf/layout/instance.py) */

static int (*select_listener)(void *ctx, void *map, void *slot, u64 flags) = (void *)BPF_FUNC_sk_select_reuseport;

static __always_inline bool try_listener(struct sk_reuseport_md *ctx, u32 slot)
{
	return !select_listener(ctx, (void *)bpf_pseudo_fd(MAP_BY_FD, LISTENERS), &slot, 0);
}

/* Whether a packet's source address is its destination too. */
static __always_inline bool is_to_itself(struct sk_reuseport_md *ctx)
{
	u64 ends[4] = {};

	if (ctx->eth_protocol == htons(ETH_P_IP))
		return !bpf_skb_load_bytes_relative(ctx, __builtin_offsetof(struct iphdr, saddr), ends, 8,
						    BPF_HDR_START_NET) &&
		       (u32)ends[0] == (u32)(ends[0] >> 32);
	return !bpf_skb_load_bytes_relative(ctx, __builtin_offsetof(struct ipv6hdr, saddr), ends, sizeof(ends),
					    BPF_HDR_START_NET) &&
	       ends[0] == ends[2] && ends[1] == ends[3];
}

/* The slot that a health check is for; NULL for any other connection. The source port is first in TCP's header. */
static __always_inline u32 *probed_slot(struct sk_reuseport_md *ctx)
{
	u32 port, *slot;
	__be16 source;

	if (ctx->data + sizeof(source) > ctx->data_end)
		return NULL; /* what moves from a closed listener's queue */
	source = *(__be16 *)ctx->data;
	port = ntohs(source);
	slot = probes.lookup(&port);
	return slot && is_to_itself(ctx) ? slot : NULL;
}

#if UDP
static __always_inline u32 second(void)
{
	return bpf_ktime_get_coarse_ns() >> 30;
}

/* Give a flow the listener that it had before. */
static __always_inline bool try_last(struct sk_reuseport_md *ctx, u32 hash)
{
	struct flow *flow = flows.lookup(&hash);
	u32 now = second();

	if (!flow || now - flow->last > IDLE || !try_listener(ctx, flow->slot))
		return false;
	if (flow->last != now)
		flow->last = now;
	return true;
}

static __always_inline void remember(u32 hash, u32 slot)
{
	struct flow flow = { .slot = slot, .last = second() };

	flows.update(&hash, &flow);
}
#endif

int PROGRAM(struct sk_reuseport_md *ctx)
{
	/* The kernel's own hash of addresses and ports: the same when a client sends its SYN again. */
	u32 cell = ctx->hash % CELLS, slot, *probed = probed_slot(ctx);
	u64 *choice, places;

	if (probed && try_listener(ctx, *probed))
		return PASS;
#if UDP
	if (try_last(ctx, ctx->hash))
		return PASS;
#endif
	choice = cpu_choices.lookup(&cell);
	if (!choice)
		return PASS;
	places = *choice;
	for (int i = 0; i < PLACES && places; i++, places >>= PLACE_BITS) {
		slot = (places & ((1 << PLACE_BITS) - 1)) - 1;
		if (!try_listener(ctx, slot))
			continue;
#if UDP
		remember(ctx->hash, slot);
#endif
		break;
	}
	return PASS;
}
