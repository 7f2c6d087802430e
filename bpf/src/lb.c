/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The XDP programs: a packet's path through a node, from parse to verdict. The first, PROGRAM, handles plain packets
 * (handle_plain.h) and leaves the others to the second, `general`. That leaves fragments whose flow needs ports to the
 * third, `collector` (collect.h). Packets of NAT (nat.h) have programs of their own, but for most of established
 * sessions (nat_shortcut.h): `nat` for plain ones, which PROGRAM has parsed, and for the others `nat_general`, which
 * parses, and `nat_parsed`.
 *
 * But for NAT no state is written per flow: a million flows, or a flood, cost what one flow costs. source.py joins the
 * included files into one text (BCC rewrites map lookups only in the main text).
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/icmp.h>
#include <uapi/linux/tcp.h>
#include <uapi/linux/udp.h>

#include "collect.h"
#include "cursor.h"
#include "decap.h"
#include "denylist.h"
#include "ethernet.h"
#include "handle.h"
#include "handle_plain.h"
#include "lb.h"
#include "maps.h"
#include "nat.h"
#include "nat_layout.h"
#include "nat_pool.h"
#include "nat_shortcut.h"
#include "packet.h"
#include "parse.h"
#include "plain.h"
#include "receive.h"
#include "service.h"

/* A parsed packet with a flow. At the cursor is what follows its TCP or UDP header, or the ports an error quotes. */
static __always_inline int handle_parsed(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
					 const struct cursor *c, struct packet *pkt)
{
#if NAT
	u64 next = c->at - frame_start(ctx);

	if (pkt->nat) {
		FORGET(conf, next); /* else clang subtracts from the pointer */
		if (pkt->icmp_error)
			next -= sizeof(struct ports);
		else
			next -= pkt->protocol == IPPROTO_TCP ? sizeof(struct tcphdr) : sizeof(struct udphdr);
		return leave_if_for_nat(ctx, conf, next, pkt);
	}
#endif
	return handle_flow(ctx, conf, uplink, pkt);
}

static __always_inline int handle_any(struct xdp_md *ctx, bool nat)
{
	struct cursor c = { frame_start(ctx), frame_end(ctx) };
	struct packet pkt = { .l2 = sizeof(struct ethhdr), .nat = nat };
	enum packet_kind kind;
	struct uplink *uplink;
	struct ethhdr *eth;
	struct conf *conf;
	int verdict;
	__be16 type;

	eth = receive(ctx, &c, &conf, &uplink, false, &verdict);
	if (!eth)
		return verdict;
	parse_marker(eth, &pkt);
	type = eth->h_proto;
	kind = parse_outer(ctx, &c, conf, &type, &pkt);
	/* Not after parse_inner(): if clang merges this with the other kinds, it spills all of pkt: 27 ns more. */
	if (kind == KIND_ECHO)
		return handle_echo(ctx, conf, uplink, &pkt);
	if (kind == KIND_FLOW)
		kind = parse_inner(ctx, &c, conf, type, &pkt);
	return kind == KIND_FLOW ? handle_parsed(ctx, conf, uplink, &c, &pkt) : handle_no_flow(ctx, conf, kind, &pkt);
}

/* A fragment that the general program left: it found nothing wrong with it. */
static __always_inline int collect_any(struct xdp_md *ctx)
{
	struct packet pkt = { .l2 = sizeof(struct ethhdr), .collects = true };
	struct cursor c = { frame_start(ctx), frame_end(ctx) };
	struct uplink *uplink;
	struct ethhdr *eth;
	struct conf *conf;
	int verdict;
	__be16 type;

	eth = receive(ctx, &c, &conf, &uplink, true, &verdict);
	if (!eth)
		return XDP_PASS; /* never */
	parse_marker(eth, &pkt);
	type = eth->h_proto;
	if (parse_outer(ctx, &c, conf, &type, &pkt) != KIND_FLOW || parse_inner(ctx, &c, conf, type, &pkt) != KIND_FLOW)
		return XDP_PASS; /* never */
	forget_offset(ctx, &c);
	return handle_fragment(ctx, conf, uplink, &c, &pkt);
}

int collector(struct xdp_md *ctx)
{
	return collect_any(ctx);
}

#if NAT
/* A packet that another program parsed: a plain one, or any. */
static __always_inline int handle_nat_parsed(struct xdp_md *ctx, bool plain)
{
	u32 this_uplink = UPLINK, zero = 0;
	struct nat_parsed *parsed = nat_parsed_packets.lookup(&zero);
	struct uplink *uplink = uplinks.lookup(&this_uplink);
	struct conf *conf = confs.lookup(&zero);
	struct packet pkt;

	if (!parsed || !conf || !uplink)
		return XDP_DROP; /* never */
	pkt = parsed->pkt;
	pkt.plain = plain;
	pkt.collects = false;
	pkt.nat = true;
	pkt.fragment = pkt.hop_offset = pkt.was_forwarded = 0;
	if (plain) {
		pkt.l2 = sizeof(struct ethhdr);
		pkt.icmp_error = 0;
	}
	return handle_nat(ctx, conf, uplink, parsed->transport, &pkt);
}

int nat_parsed(struct xdp_md *ctx)
{
	return handle_nat_parsed(ctx, false);
}

int nat_general(struct xdp_md *ctx)
{
	int verdict = handle_any(ctx, true);

	if (verdict != FOR_NAT)
		return verdict;
	programs.call(ctx, NAT_PARSED);
	return XDP_PASS; /* never */
}

int nat(struct xdp_md *ctx)
{
	int verdict = handle_nat_parsed(ctx, true);

	if (verdict >= 0)
		return verdict;
	programs.call(ctx, NAT_GENERAL);
	return XDP_PASS; /* never: all tail calls are in their places before a program is attached */
}
#endif

int general(struct xdp_md *ctx)
{
	int verdict = handle_any(ctx, false);

	if (verdict >= 0)
		return verdict;
#if NAT
	if (verdict == FOR_NAT)
		programs.call(ctx, NAT_GENERAL);
#endif
	programs.call(ctx, COLLECTOR);
	return XDP_PASS; /* never */
}

int PROGRAM(struct xdp_md *ctx)
{
	int verdict = PLAIN ? handle_plain(ctx) : handle_any(ctx, false);

	if (verdict >= 0)
		return verdict;
#if NAT
	if (verdict == FOR_NAT)
		programs.call(ctx, PLAIN ? NAT_PLAIN : NAT_GENERAL);
#endif
	if (verdict == FOR_COLLECTOR)
		programs.call(ctx, COLLECTOR);
	else
		programs.call(ctx, GENERAL);
	return XDP_PASS; /* never */
}
