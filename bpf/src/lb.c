/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The XDP program: a packet's way through a node, from parse to verdict.
 *
 * No state is written per flow: a million flows, or a flood, cost what one flow costs. compile.py joins
 * the files included here into one text (BCC rewrites map lookups only in the main text).
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/icmp.h>
#include <uapi/linux/tcp.h>
#include <uapi/linux/udp.h>

#include "lb.h"
#include "maps.h"
#include "stats.h"
#include "ratelimit.h"
#include "packet.h"
#include "service.h"
#include "parse.h"
#include "flow.h"
#include "pick.h"
#include "encap.h"
#include "icmp_error.h"
#include "forward.h"
#include "sample.h"

static __always_inline int pass(u32 slot, enum counter event)
{
	struct stats *s = stats_of(slot);

	if (s)
		count(s, event);
	return XDP_PASS;
}

static __always_inline enum counter reason(enum kind kind)
{
	switch (kind) {
	case MALFORMED:
		return DROP_MALFORMED;
	case HEADERS:
		return DROP_IPV6_HEADERS;
	case LAND:
		return DROP_LAND;
	case MARTIAN:
		return DROP_MARTIAN;
	default:
		return DROP_DENIED;
	}
}

/* What is not for a service: the kernel's, untouched. */
static __always_inline int pass_no_service(const struct packet *pkt)
{
	return pass(0, pkt->outer ? PASS_FOREIGN_TUNNEL : PASS_NO_SERVICE);
}

static __always_inline int handle(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
				  struct service *service, struct packet *pkt, struct stats *s)
{
	u32 side = conf->flags / CONF_BANK % BANKS, table = service->slot + side * SLOTS;
	u32 hash = flow_hash(conf->hash_key[side], service, pkt), r = hash & (ROWS - 1);
	struct row *row = find_row(table, r);
	struct node *next = NULL;
	int verdict = XDP_PASS;
	enum counter event;

	count(s, pkt->hop ? RX_FORWARDED : RX);
	if (pkt->outer)
		count(s, RX_TUNNEL);
	if (pkt->icmp_error)
		count(s, RX_ICMP_ERROR);

	if (row)
		event = pick(ctx, conf, service, table, r, row, pkt, s, &next);
	else
		event = service->flags & SERVICE_DROP_NO_MEMBER ? DROP_NO_MEMBER : PASS_NO_MEMBER;
	event ^= conf->zero; /* see forget() */
	if (event >= DROP_GRACE)
		verdict = XDP_DROP;
	else if (next)
		verdict = forward(ctx, conf, uplink, service, next, pkt, hash, &event);
	else if (pkt->outer && !unwrap(ctx, pkt))
		verdict = XDP_DROP;
	count_any(s, event);
	if (conf->flags & CONF_SAMPLE)
		sample(ctx, pkt, service->slot, event);
	return verdict;
}

/*
 * IPv4's protocol 0 is in no service's key, but 0 there means a VIP with whatever protocol: of IPv6, where protocol 0
 * is one that could not be told.
 */
static __always_inline bool names_no_service(const struct packet *pkt)
{
	return !pkt->protocol && pkt->family == 4;
}

/* What has no flow: not for a service, or to be dropped if it is to a VIP. */
static __always_inline int refuse(struct xdp_md *ctx, const struct conf *conf, enum kind kind, struct packet *pkt)
{
	struct service *service;
	struct stats *s;

	if (kind == FOREIGN)
		return pass(0, PASS_FOREIGN_TUNNEL);
	if (kind == OTHER)
		return pass_no_service(pkt);
	if (kind == MALFORMED && names_no_service(pkt))
		return pass_no_service(pkt);
	service = find_entry(pkt, 0, kind == MALFORMED ? pkt->protocol : 0);
	if (!service)
		return pass_no_service(pkt);
	s = stats_of(service->slot);
	if (s)
		count(s, reason(kind));
	if (conf->flags & CONF_SAMPLE)
		sample(ctx, pkt, service->slot, reason(kind));
	return XDP_DROP;
}

static __always_inline int serve(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
				 struct packet *pkt)
{
	struct service *service = find_service(pkt);
	struct stats *s;

	if (!service)
		return pass_no_service(pkt);
	s = stats_of(service->slot);
	if (!s)
		return XDP_PASS;
	if (pkt->fragment) {
		if (names_no_service(pkt))
			return pass_no_service(pkt);
		if (!(service->flags & SERVICE_FRAGMENTS)) {
			count(s, DROP_FRAGMENT);
			return XDP_DROP;
		}
	} else if (service->flags & SERVICE_PORTS_ONLY) {
		return pass_no_service(pkt);
	}
	return handle(ctx, conf, uplink, service, pkt, s);
}

int PROGRAM(struct xdp_md *ctx)
{
	struct cursor c = { (void *)(long)ctx->data, (void *)(long)ctx->data_end };
	u32 zero = 0, here = UPLINK;
	struct conf *conf = confs.lookup(&zero);
	struct uplink *uplink = uplinks.lookup(&here);
	struct packet pkt = { .l2 = sizeof(struct ethhdr) };
	struct ethhdr *eth = take(&c, sizeof(*eth));
	enum kind kind;

	if (!conf || !uplink) /* never: both are arrays; the verifier wants it said */
		return XDP_PASS;
	if (!eth)
		return pass(0, PASS_NO_SERVICE);
	if (!same_mac(eth->h_dest, uplink->mac))
		return pass(0, PASS_OTHER_MAC);
	parse_marker(eth, &pkt);

	/*
	 * Thrice the same in the text, not in the program: plain frames' copies are compiled without all that they
	 * have not.
	 */
	if (is_plain(conf, &c, eth->h_proto)) {
		kind = parse_ipv4(ctx, &c, conf, &pkt);
		forget_flow(conf, &pkt);
		return kind == FLOW ? serve(ctx, conf, uplink, &pkt) : refuse(ctx, conf, kind, &pkt);
	}
	if (IPV6 && is_plain6(conf, &c, eth->h_proto)) {
		kind = parse_ipv6(ctx, &c, conf, &pkt);
		forget_flow(conf, &pkt);
		return kind == FLOW ? serve(ctx, conf, uplink, &pkt) : refuse(ctx, conf, kind, &pkt);
	}
	kind = parse_any(ctx, &c, conf, eth->h_proto, &pkt);
	return kind == FLOW ? serve(ctx, conf, uplink, &pkt) : refuse(ctx, conf, kind, &pkt);
}
