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
#include <uapi/linux/icmp.h>
#include <uapi/linux/tcp.h>
#include <uapi/linux/udp.h>

#include "lb.h"
#include "maps.h"
#include "stats.h"
#include "packet.h"
#include "service.h"
#include "parse.h"
#include "flow.h"
#include "pick.h"
#include "forward.h"

static __always_inline int pass(u32 slot, enum counter event)
{
	struct stats *s = stats_of(slot);

	if (s)
		count(s, event);
	return XDP_PASS;
}

static __always_inline int handle(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
				  struct service *service, struct packet *pkt, struct stats *s)
{
	u32 r = flow_hash(conf, service, pkt) & (ROWS - 1);
	struct row *row = find_row(service->slot, r);
	struct node *next = NULL;
	enum counter event;

	count(s, pkt->hop ? RX_FORWARDED : RX);
	if (pkt->icmp_error)
		count(s, RX_ICMP_ERROR);

	event = row ? pick(ctx, conf, service, row, r, pkt, s, &next) : NO_MEMBER;
	count(s, event);
	if (event >= DROP_GRACE)
		return XDP_DROP;
	if (next)
		return forward_l2(ctx, conf, uplink, next, pkt);
	return XDP_PASS;
}

int PROGRAM(struct xdp_md *ctx)
{
	u32 zero = 0, here = UPLINK;
	struct conf *conf = confs.lookup(&zero);
	struct uplink *uplink = uplinks.lookup(&here);
	struct packet pkt = {};
	struct service *service;
	struct stats *s;
	enum kind kind;

	if (!conf || !uplink)	/* never: both are arrays; the verifier wants it said */
		return XDP_PASS;

	kind = parse(ctx, conf, uplink, &pkt);
	if (kind == OTHER_MAC)
		return pass(0, PASS_OTHER_MAC);
	if (kind == OTHER)
		return pass(0, PASS_OTHER);

	service = find_service(&pkt);
	if (!service)
		return pass(0, PASS_OTHER);
	s = stats_of(service->slot);
	if (!s)
		return XDP_PASS;

	if (kind == FRAGMENT || kind == MALFORMED) {
		count(s, kind == FRAGMENT ? DROP_FRAGMENT : DROP_MALFORMED);
		return XDP_DROP;
	}
	if (service->flags & SERVICE_PORTS_ONLY)
		return pass(0, PASS_OTHER);
	return handle(ctx, conf, uplink, service, &pkt, s);
}
