/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The XDP program: a packet's path through a node, from parse to verdict.
 *
 * No state is written per flow: a million flows, or a flood, cost what one flow costs. source.py joins the included
 * files into one text (BCC rewrites map lookups only in the main text).
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/icmp.h>
#include <uapi/linux/tcp.h>
#include <uapi/linux/udp.h>

#include "cursor.h"
#include "decap.h"
#include "ethernet.h"
#include "flow.h"
#include "forward.h"
#include "lb.h"
#include "maps.h"
#include "packet.h"
#include "parse.h"
#include "pick.h"
#include "sample.h"
#include "service.h"
#include "stats.h"
#include "verdict.h"
#include "verifier.h"

/* Not for any service: pass to the kernel unmodified. */
static __always_inline int pass(enum counter event)
{
	struct stats *s = stats_of(0);

	if (s)
		count(s, event);
	return XDP_PASS;
}

static __always_inline int pass_no_service(const struct packet *pkt)
{
	return pass(pkt->outer ? PASS_FOREIGN_TUNNEL : PASS_NO_SERVICE);
}

static __always_inline void count_arrival(struct stats *s, const struct packet *pkt)
{
	count(s, pkt->hop ? RX_FORWARDED : RX);
	if (pkt->outer)
		count(s, RX_TUNNEL);
	if (pkt->icmp_error)
		count(s, RX_ICMP_ERROR);
}

/* Return what happens to a packet of a service; to forward it, set `next`. */
static __always_inline enum counter decide(struct xdp_md *ctx, const struct conf *conf, const struct service *service,
					   const struct packet *pkt, u32 hash, struct stats *s, struct node **next)
{
	u32 table = service->slot + active_bank(conf) * SLOTS, r = hash & (ROWS - 1);
	struct row *row = find_row(table, r);

	if (row)
		return pick(ctx, conf, service, table, r, row, pkt, s, next);
	return service->flags & SERVICE_DROP_NO_MEMBER ? DROP_NO_MEMBER : PASS_NO_MEMBER;
}

/* Do what was decided and return the XDP verdict. `event` becomes another if forwarding fails. */
static __always_inline int act(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
			       const struct service *service, const struct node *next, struct packet *pkt, u32 hash,
			       enum counter *event)
{
	if (is_drop(*event))
		return XDP_DROP;
	if (next)
		return forward(ctx, conf, uplink, service, next, pkt, hash, event);
	return pkt->outer && !decapsulate(ctx, pkt) ? XDP_DROP : XDP_PASS;
}

/*
 * IPv4's protocol 0 is in no service's key, but a key with 0 means a VIP with any protocol: for IPv6, where protocol 0
 * is one that could not be parsed.
 */
static __always_inline bool has_no_service_key(const struct packet *pkt)
{
	return !pkt->protocol && pkt->family == 4;
}

static __always_inline int handle_flow(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
				       struct packet *pkt)
{
	struct service *service = find_service(pkt);
	struct node *next = NULL;
	enum counter event;
	struct stats *s;
	int verdict;
	u32 hash;

	if (!service)
		return pass_no_service(pkt);
	s = stats_of(service->slot);
	if (!s)
		return XDP_PASS;
	if (pkt->fragment) {
		if (has_no_service_key(pkt))
			return pass_no_service(pkt);
		if (!(service->flags & SERVICE_FRAGMENTS)) {
			count(s, DROP_FRAGMENT);
			return XDP_DROP;
		}
	} else if (service->flags & SERVICE_PORTS_ONLY) {
		return pass_no_service(pkt);
	}

	count_arrival(s, pkt);
	hash = flow_hash(conf->hash_key[active_bank(conf)], service, pkt);
	event = decide(ctx, conf, service, pkt, hash, s, &next);
	FORGET(conf, event);
	verdict = act(ctx, conf, uplink, service, next, pkt, hash, &event);
	count_any(s, event);
	sample_packet(ctx, conf, pkt, service->slot, event);
	return verdict;
}

static __always_inline enum counter drop_reason(enum packet_kind kind)
{
	switch (kind) {
	case KIND_MALFORMED:
		return DROP_MALFORMED;
	case KIND_IPV6_HEADERS:
		return DROP_IPV6_HEADERS;
	case KIND_LAND:
		return DROP_LAND;
	case KIND_MARTIAN:
		return DROP_MARTIAN;
	default:
		return DROP_DENIED;
	}
}

/* Without a flow: pass what is not for a service, drop what is to a VIP. */
static __always_inline int handle_no_flow(struct xdp_md *ctx, const struct conf *conf, enum packet_kind kind,
					  struct packet *pkt)
{
	struct service *service;
	struct stats *s;

	if (kind == KIND_FOREIGN_TUNNEL)
		return pass(PASS_FOREIGN_TUNNEL);
	if (kind == KIND_NO_SERVICE)
		return pass_no_service(pkt);
	if (kind == KIND_MALFORMED && has_no_service_key(pkt))
		return pass_no_service(pkt);
	service = lookup_service(pkt, 0, kind == KIND_MALFORMED ? pkt->protocol : 0);
	if (!service)
		return pass_no_service(pkt);
	s = stats_of(service->slot);
	if (s)
		count(s, drop_reason(kind));
	sample_packet(ctx, conf, pkt, service->slot, drop_reason(kind));
	return XDP_DROP;
}

static __always_inline int handle(struct xdp_md *ctx, const struct conf *conf, const struct uplink *uplink,
				  enum packet_kind kind, struct packet *pkt)
{
	return kind == KIND_FLOW ? handle_flow(ctx, conf, uplink, pkt) : handle_no_flow(ctx, conf, kind, pkt);
}

int PROGRAM(struct xdp_md *ctx)
{
	struct cursor c = { (void *)(long)ctx->data, (void *)(long)ctx->data_end };
	u32 zero = 0, this_uplink = UPLINK;
	struct conf *conf = confs.lookup(&zero);
	struct uplink *uplink = uplinks.lookup(&this_uplink);
	struct packet pkt = { .l2 = sizeof(struct ethhdr) };
	struct ethhdr *eth = take(&c, sizeof(*eth));

	if (!conf || !uplink) /* never: both are arrays; the verifier wants the check */
		return XDP_PASS;
	if (!eth)
		return pass(PASS_NO_SERVICE);
	if (!same_mac(eth->h_dest, uplink->mac))
		return pass(PASS_OTHER_MAC);
	parse_marker(eth, &pkt);

	/* Each line compiles handle() again, for plain frames without the code for what they cannot have. */
	if (is_plain_ipv4(conf, &c, eth->h_proto))
		return handle(ctx, conf, uplink, parse_plain_ipv4(ctx, &c, conf, &pkt), &pkt);
	if (IPV6 && is_plain_ipv6(conf, &c, eth->h_proto))
		return handle(ctx, conf, uplink, parse_plain_ipv6(ctx, &c, conf, &pkt), &pkt);
	return handle(ctx, conf, uplink, parse_any(ctx, &c, conf, eth->h_proto, &pkt), &pkt);
}
