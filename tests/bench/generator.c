/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Frames by BPF_PROG_TEST_RUN's live mode: `generate` sends them, `reflect` returns them at the least cost, `sink`
 * drops and counts them. The kernel recycles a live frame's page unchanged, so `generate` writes each head again.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>

struct stream {
	u32 flows;
	u32 client; /* the first one's address, host order */
	u64 random;
	u32 sum; /* of the IP header's 16-bit words, network order, without source and checksum */
	u32 pad;
	u64 head[8];
};

BPF_TABLE("array", u32, struct stream, streams, 1);
BPF_TABLE("percpu_array", u32, u64, sunk, 1);

int generate(struct xdp_md *ctx)
{
	u32 zero = 0, client, sum, i;
	struct stream *stream = streams.lookup(&zero);
	u64 *head = (void *)(long)ctx->data;

	if (!stream || (void *)(head + 8) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
#pragma unroll
	for (i = 0; i < 8; i++)
		head[i] = stream->head[i];
	stream->random = stream->random * 6364136223846793005ULL + 1442695040888963407ULL;
	client = stream->client + (u32)((stream->random >> 32) * stream->flows >> 32);
	sum = stream->sum + (client >> 16) + (client & 0xffff);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*(u32 *)((void *)head + 26) = htonl(client);
	*(u16 *)((void *)head + 24) = htons(~sum);
	return XDP_TX;
}

int reflect(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	eth->h_dest[5] ^= 1;
	eth->h_source[5] ^= 1;
	return bpf_redirect(ctx->ingress_ifindex, 0);
}

int sink(struct xdp_md *ctx)
{
	u32 zero = 0;
	u64 *count = sunk.lookup(&zero);

	if (count)
		(*count)++;
	return XDP_DROP;
}
