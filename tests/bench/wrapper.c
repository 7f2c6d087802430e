/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Times the XDP program under BPF_PROG_TEST_RUN, which gives each round the packet that the round before left.
 *
 * xdp.py appends this to lb.c's text and makes the functions of lb.c's two programs inline ones. Each round writes the
 * next flow's client into the packet, runs the measured code, checks verdict and packet, and restores the packet. The
 * clock is read every WINDOW rounds: the kernel's own figure is a whole number of nanoseconds, and an interruption
 * must spoil one window only, not the run.
 *
 * Given by -D: WINDOW, WINDOWS, RESTORE (16-byte words restored at the packet's head), and lb.c's own options.
 */

struct bench_case {
	u32 length;  /* of the packet before the program */
	u32 verdict; /* the expected one */
	u32 flows;
	u32 client_at; /* offset of the client address's last word in the packet */
	u32 client;    /* that word of the first flow, host order */
	int grows;     /* by so many bytes in the program */
	u32 source;    /* the first four bytes of the expected source MAC */
	u32 mode;      /* of wrapper_nat.c */
	u64 head[2 * RESTORE];
};

struct bench_state {
	u64 random;
	u64 rounds;
	u64 wrong; /* rounds that ended with a wrong verdict or a wrong packet */
	u64 since_ns;
	u64 window_ns[WINDOWS];
};

BPF_TABLE("array", u32, struct bench_case, bench_cases, 1);
BPF_TABLE("array", u32, struct bench_state, bench_states, 1);

static __always_inline void bench_clock(struct bench_state *state)
{
	u64 now, window;

	if (!(state->rounds % WINDOW)) {
		now = bpf_ktime_get_ns();
		window = state->rounds / WINDOW - 1;
		if (window < WINDOWS)
			state->window_ns[window] = now - state->since_ns;
		state->since_ns = now;
	}
	state->rounds++;
}

/* A linear congruential generator (Knuth, MMIX): flows in an order that no prefetcher follows. */
static __always_inline u32 bench_flow(struct bench_state *state, u32 flows)
{
	state->random = state->random * 6364136223846793005ULL + 1442695040888963407ULL;
	return (state->random >> 32) * flows >> 32;
}

/* Before: write the next flow. One path leads through this, so it adds no work for the verifier on the program. */
static __always_inline bool bench_prepare(struct xdp_md *ctx, const struct bench_case *now, struct bench_state *state)
{
	u32 at = now->client_at & 0x7f;
	void *data = (void *)(long)ctx->data;

	if (data + at + 4 > (void *)(long)ctx->data_end)
		return false;
	*(u32 *)(data + at) = htonl(now->client + bench_flow(state, now->flows));
	return true;
}

/* In pieces as programs read them: a load that needs two stores waits until both have left the CPU's store buffer. */
static __always_inline void bench_write_macs(void *to, const void *from)
{
	*(u32 *)to = *(u32 *)from;
	*(u16 *)(to + 4) = *(u16 *)(from + 4);
	*(u32 *)(to + 6) = *(u32 *)(from + 6);
	*(u16 *)(to + 10) = *(u16 *)(from + 10);
	*(u32 *)(to + 12) = *(u32 *)(from + 12);
}

/* After: check that the packet fits the verdict, and restore it. */
static __always_inline bool bench_restore(struct xdp_md *ctx, const struct bench_case *now)
{
	int grown = (int)(ctx->data_end - ctx->data) - (int)now->length;
	bool right;
	void *data;
	u64 *head;
	u32 i;

	data = (void *)(long)ctx->data;
	if (data + 14 > (void *)(long)ctx->data_end)
		return false;
	right = grown == now->grows && *(u32 *)(data + 6) == now->source;
	if (grown && bpf_xdp_adjust_head(ctx, grown))
		return false;
	head = (void *)(long)ctx->data;
	if ((void *)head + sizeof(now->head) > (void *)(long)ctx->data_end)
		return false;
	bench_write_macs(head, now->head);
#pragma unroll
	for (i = 2; i < 2 * RESTORE; i++)
		head[i] = now->head[i];
	return right;
}

/* The least that forwarding by a hash can cost: bounds checks, the program's own hash, two MACs, out again. */
static __always_inline int bench_floor_of(struct xdp_md *ctx)
{
	struct service five_tuple = { .affinity = AFFINITY_FIVE_TUPLE };
	struct packet pkt = { .family = 4 };
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	struct tcphdr *tcp = (void *)(ip + 1);
	u32 zero = 0, hash;
	struct conf *conf = confs.lookup(&zero);

	if (!conf || (void *)(tcp + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	if (eth->h_proto != htons(ETH_P_IP) || ip->ihl != 5 || ip->protocol != IPPROTO_TCP)
		return XDP_PASS;
	pkt.client[0] = ip->saddr;
	pkt.vip[0] = ip->daddr;
	pkt.client_port = tcp->source;
	pkt.vip_port = tcp->dest;
	hash = flow_hash(conf->hash_key[0], &five_tuple, &pkt);
	eth->h_dest[0] = 0x02;
	eth->h_dest[1] = 0x00;
	*(u32 *)&eth->h_dest[2] = hash;
	eth->h_source[0] = 0x02;
	eth->h_source[1] = 0x4c;
	eth->h_source[2] = 0x42;
	eth->h_source[3] = 1;
	eth->h_source[4] = conf->self_tag >> 8;
	eth->h_source[5] = conf->self_tag;
	return XDP_TX;
}

/*
 * The yardstick: the floor and the chain of dependent loads that each forward by MAC needs, service, row, node and
 * counters, without any check but those for the verifier.
 */
static __always_inline int bench_loads_of(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	struct tcphdr *tcp = (void *)(ip + 1);
	u32 zero = 0, place, hash, next;
	struct packet pkt = { .family = 4 };
	struct conf *conf = confs.lookup(&zero);
	struct cached_service *entry;
	struct node *node;
	struct stats *s;
	struct row *row;

	if (!conf || (void *)(tcp + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	pkt.client[0] = ip->saddr;
	pkt.vip[0] = ip->daddr;
	pkt.client_port = tcp->source;
	pkt.vip_port = tcp->dest;
	place = cache_place(&pkt, pkt.vip_port | IPPROTO_TCP << 16 | 4 << 24);
	entry = service_cache.lookup(&place);
	if (!entry)
		return XDP_ABORTED;
	hash = flow_hash(conf->hash_key[0], &entry->service, &pkt);
	row = find_row(entry->service.slot, hash & (ROWS - 1));
	if (!row)
		return XDP_ABORTED;
	next = row->node[0];
	node = nodes.lookup(&next);
	s = stats_of(entry->service.slot);
	if (!node || !s)
		return XDP_ABORTED;
	count(s, FORWARD_FIRST);
	copy_mac(eth->h_dest, node->mac);
	copy_mac(eth->h_source, (const u8[]){ 0x02, 0x4c, 0x42, 1, 0, 11 });
	return XDP_TX;
}

/* Move the head as a tunnel's header does, so that the wrapper moves it back. */
static __always_inline int bench_shift_of(struct xdp_md *ctx, const struct bench_case *now)
{
	void *data;

	if (bpf_xdp_adjust_head(ctx, -20))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	if (data + 14 > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	*(u32 *)(data + 6) = now->source;
	return now->verdict;
}

/* After: judge the round and restore the packet. */
static __always_inline int bench_end(struct xdp_md *ctx, const struct bench_case *now, struct bench_state *state,
				     int verdict)
{
	if (!bench_restore(ctx, now) || verdict != now->verdict)
		state->wrong++;
	bench_clock(state);
	return verdict;
}

enum bench_subject { BENCH_EMPTY, BENCH_BARE, BENCH_SHIFT, BENCH_FLOOR, BENCH_LOADS, BENCH_LB, BENCH_GENERAL };

static __always_inline int bench_run(struct xdp_md *ctx, enum bench_subject subject)
{
	u32 zero = 0;
	struct bench_case *now = bench_cases.lookup(&zero);
	struct bench_state *state = bench_states.lookup(&zero);
	int verdict;

	if (!now || !state)
		return XDP_ABORTED;
	if (subject == BENCH_EMPTY) {
		bench_clock(state);
		return XDP_PASS;
	}
	if (!bench_prepare(ctx, now, state)) {
		state->wrong++;
		return XDP_ABORTED;
	}
	if (subject == BENCH_LB)
		verdict = PROGRAM(ctx);
	else if (subject == BENCH_GENERAL)
		verdict = general(ctx);
	else if (subject == BENCH_FLOOR)
		verdict = bench_floor_of(ctx);
	else if (subject == BENCH_LOADS)
		verdict = bench_loads_of(ctx);
	else if (subject == BENCH_SHIFT)
		verdict = bench_shift_of(ctx, now);
	else
		verdict = now->verdict;
	return bench_end(ctx, now, state, verdict);
}

int bench_empty(struct xdp_md *ctx)
{
	return bench_run(ctx, BENCH_EMPTY);
}

int bench_bare(struct xdp_md *ctx)
{
	return bench_run(ctx, BENCH_BARE);
}

int bench_shift(struct xdp_md *ctx)
{
	return bench_run(ctx, BENCH_SHIFT);
}

int bench_floor(struct xdp_md *ctx)
{
	return bench_run(ctx, BENCH_FLOOR);
}

int bench_loads(struct xdp_md *ctx)
{
	return bench_run(ctx, BENCH_LOADS);
}

int bench_lb(struct xdp_md *ctx)
{
	return bench_run(ctx, BENCH_LB);
}

int bench_general(struct xdp_md *ctx)
{
	return bench_run(ctx, BENCH_GENERAL);
}

/* The program's tail call leads here: the wrapper's end follows the general program too. */
int bench_tail(struct xdp_md *ctx)
{
	u32 zero = 0;
	struct bench_case *now = bench_cases.lookup(&zero);
	struct bench_state *state = bench_states.lookup(&zero);

	return now && state ? bench_end(ctx, now, state, general(ctx)) : XDP_ABORTED;
}
