/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * wrapper.c for NAT: its packets are rewritten up to their transport header, its programs are reached by tail calls,
 * and a flow may be named by the NAT endpoint. Beside them, the yardsticks: a hash map of flows. nat.py appends this.
 */

enum {
	BENCH_ENDPOINTS = 1, /* the packets are a backend's: flow i goes to slot i's endpoint */
	BENCH_FREES = 2,     /* the session that the packet made is freed again */
	BENCH_IN_ORDER = 4,  /* each round has the next flow */
};

#define BENCH_LINK 14
#define BENCH_WORDS ((16 * RESTORE - 2 - BENCH_LINK) / 4)
#define BENCH_PAIRS 1500000

struct bench_key {
	__be32 source, destination;
	__be16 source_port, destination_port;
	u32 protocol;
};

BPF_TABLE("hash", struct bench_key, u64, bench_pairs, BENCH_PAIRS);

/* An IPv4 packet's ends. */
struct bench_ends {
	u8 link[BENCH_LINK];
	u8 ip[12];
	__be32 source, destination;
	__be16 source_port, destination_port;
} __attribute__((packed));

static __always_inline struct bench_ends *bench_ends_of(struct xdp_md *ctx)
{
	struct bench_ends *ends = (void *)(long)ctx->data;

	return (void *)(ends + 1) > (void *)(long)ctx->data_end ? NULL : ends;
}

/* Before: write the next flow. */
static __always_inline bool bench_nat_prepare(struct xdp_md *ctx, const struct bench_case *now,
					      struct bench_state *state)
{
	u32 flow = now->mode & BENCH_IN_ORDER ? state->rounds : bench_flow(state, now->flows);
	struct bench_ends *ends = bench_ends_of(ctx);

	if (!ends)
		return false;
	if (now->mode & BENCH_ENDPOINTS) {
		ends->destination = htonl(now->client + (flow >> PORT_BITS));
		ends->destination_port = htons(FIRST_PORT | (flow & (FIRST_PORT - 1)));
	} else {
		ends->source = htonl(now->client + flow);
	}
	return true;
}

/* Free the session whose endpoint is the packet's source. */
static __always_inline void bench_free(struct xdp_md *ctx)
{
	const struct nat_conf *nat = find_nat_conf();
	struct bench_ends *ends = bench_ends_of(ctx);
	u64 *tag;

	if (!nat || !ends)
		return;
	tag = find_tag(ntohl(ends->source & nat->hosts4) << PORT_BITS | (ntohs(ends->source_port) & (FIRST_PORT - 1)));
	if (tag)
		*tag = 0;
}

/* After: judge the round and restore the packet, in pieces as the program reads them. */
static __always_inline int bench_nat_end(struct xdp_md *ctx, int verdict)
{
	u32 zero = 0, i;
	struct bench_case *now = bench_cases.lookup(&zero);
	struct bench_state *state = bench_states.lookup(&zero);
	void *data = (void *)(long)ctx->data;
	const void *head;

	if (!now || !state)
		return XDP_ABORTED;
	if (now->mode & BENCH_FREES)
		bench_free(ctx);
	if (ctx->data_end - ctx->data != now->length || data + sizeof(now->head) > (void *)(long)ctx->data_end ||
	    *(u32 *)(data + 6) != now->source || verdict != now->verdict) {
		state->wrong++;
	} else {
		head = now->head;
		bench_write_macs(data, head);
#pragma unroll
		for (i = 0; i < BENCH_WORDS; i++)
			*(u32 *)(data + BENCH_LINK + 4 * i) = *(u32 *)(head + BENCH_LINK + 4 * i);
	}
	bench_clock(state);
	return verdict;
}

/* The flow's two entries, as a balancer has them that looks sessions up by either end. */
static __always_inline void bench_keys(const struct bench_ends *ends, struct bench_key *one, struct bench_key *other)
{
	one->source = ends->source;
	one->destination = ends->destination;
	one->source_port = ends->source_port;
	one->destination_port = ends->destination_port;
	one->protocol = IPPROTO_TCP;
	other->source = ends->destination;
	other->destination = ends->source;
	other->source_port = ends->destination_port;
	other->destination_port = ends->source_port;
	other->protocol = IPPROTO_TCP;
}

enum bench_nat_subject { BENCH_NAT, BENCH_NAT_BARE, BENCH_LOOKUP, BENCH_INSERT, BENCH_INSERT_PAIR, BENCH_DELETE_PAIR };

static __always_inline bool bench_map_of(struct xdp_md *ctx, enum bench_nat_subject subject)
{
	struct bench_ends *ends = bench_ends_of(ctx);
	struct bench_key one = {}, other = {};
	u64 value = 1;

	if (!ends)
		return false;
	bench_keys(ends, &one, &other);
	if (subject == BENCH_LOOKUP)
		return bench_pairs.lookup(&one);
	if (subject == BENCH_DELETE_PAIR)
		return !bench_pairs.delete(&one) & !bench_pairs.delete(&other);
	if (bench_pairs.insert(&one, &value))
		return false;
	return subject == BENCH_INSERT || !bench_pairs.insert(&other, &value);
}

static __always_inline int bench_nat_run(struct xdp_md *ctx, enum bench_nat_subject subject)
{
	u32 zero = 0;
	struct bench_case *now = bench_cases.lookup(&zero);
	struct bench_state *state = bench_states.lookup(&zero);
	int verdict;

	if (!now || !state)
		return XDP_ABORTED;
	if (!bench_nat_prepare(ctx, now, state)) {
		state->wrong++;
		return XDP_ABORTED;
	}
	if (subject == BENCH_NAT)
		verdict = PROGRAM(ctx);
	else if (subject == BENCH_NAT_BARE)
		verdict = now->verdict;
	else
		verdict = bench_map_of(ctx, subject) ? now->verdict : XDP_ABORTED;
	return bench_nat_end(ctx, verdict);
}

int bench_nat(struct xdp_md *ctx)
{
	return bench_nat_run(ctx, BENCH_NAT);
}

int bench_nat_bare(struct xdp_md *ctx)
{
	return bench_nat_run(ctx, BENCH_NAT_BARE);
}

int bench_lookup(struct xdp_md *ctx)
{
	return bench_nat_run(ctx, BENCH_LOOKUP);
}

int bench_insert(struct xdp_md *ctx)
{
	return bench_nat_run(ctx, BENCH_INSERT);
}

int bench_insert_pair(struct xdp_md *ctx)
{
	return bench_nat_run(ctx, BENCH_INSERT_PAIR);
}

int bench_delete_pair(struct xdp_md *ctx)
{
	return bench_nat_run(ctx, BENCH_DELETE_PAIR);
}

/* Where the program's tail calls lead. */
int bench_nat_plain(struct xdp_md *ctx)
{
	return bench_nat_end(ctx, nat(ctx));
}

int bench_nat_general(struct xdp_md *ctx)
{
	return bench_nat_end(ctx, nat_general(ctx));
}

int bench_nat_parsed(struct xdp_md *ctx)
{
	return bench_nat_end(ctx, nat_parsed(ctx));
}
