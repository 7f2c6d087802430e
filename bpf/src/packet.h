/* SPDX-License-Identifier: GPL-2.0-only */
/* What the program knows of a packet once it is parsed. */
#pragma once

#include "lb.h"
#include "verifier.h"

enum packet_kind {
	KIND_NO_SERVICE,     /* surely not for a service */
	KIND_POOL,           /* to an address of the NAT pool */
	KIND_OTHER_VLAN,     /* in a VLAN that the configuration does not name */
	KIND_FOREIGN_TUNNEL, /* a tunnel to this node, but not one of the cluster's */
	KIND_ECHO,           /* to this node's own address, and perhaps an echo question: see echo.h */
	KIND_FLOW,           /* has a flow, or is a fragment of one: look up its service */
	KIND_MALFORMED,      /* to an address that may be a VIP, with lengths that contradict each other */
	KIND_IPV6_HEADERS,   /* likewise, with too many IPv6 extension headers, or a routing header not used up */
	KIND_OTHER_PROTOCOL, /* likewise, neither TCP, UDP nor ICMP */
	KIND_LAND,           /* likewise, from the VIP to itself */
	KIND_MARTIAN,        /* likewise, from an address that no client can have */
	KIND_DENIED,         /* likewise, from a prefix of the deny list */
	KIND_ICMP_FRAGMENT,  /* likewise, the first fragment of an ICMP error */
};

enum fragment { NO_FRAGMENT, FIRST_FRAGMENT, LATER_FRAGMENT };

struct packet {
	__be32 client[4], vip[4];
	__be16 client_port, vip_port;
	u8 family;      /* of the client's packet and its flow: 4 or 6 */
	u8 protocol;    /* of the flow: TCP or UDP */
	u8 dscp;        /* in its place in the traffic class: the two bits of ECN are 0 */
	u8 prev_family; /* of the outer header that `prev` is from; 4 also if it is from a MAC */
	u32 prev;       /* the node that forwarded it, if hop > 0: its tag; over IPv6 node_id6() of its address */
	u16 length;     /* of the client's packet, from its IP header on */
	u16 l2;         /* bytes of Ethernet and VLAN tags */
	u16 outer;      /* bytes of the tunnel's headers; 0: none */
	u16 service;    /* slot of its service of mode nat, in the NAT programs; 0: it is to the pool */
	u16 tcp;        /* offset of the TCP header in the frame; 0: this is no TCP segment itself */
	u8 hop;         /* 0: straight from the router */
	u8 opens;       /* needs no socket: a SYN, any UDP */
	u8 icmp_error;
	u8 fragment;      /* NO_FRAGMENT, FIRST_FRAGMENT (has what follows the IP header) or LATER_FRAGMENT */
	u8 hop_offset;    /* added to the hop that it leaves with: of a fragment that is collected; see collect.h */
	u8 in_grace;      /* HOP_IN_GRACE if a row that led the packet here is in grace, else 0 */
	u8 was_forwarded; /* although hop is 0 again: a fragment that was collected */
	bool collects;    /* known when this is compiled: the program that collects fragments handles it */
	bool plain;       /* known when this is compiled: the plain program handles it; see plain.h */
	bool nat;         /* known when this is compiled: a NAT program handles it; see nat.h */
};

/*
 * Return one number for a node's IPv6 address. Its low bits are not enough: where each server has a /64 of its own, all
 * may end in ::1. The multiplier is odd, so addresses that differ in one word never share a number; others do one time
 * in 2^32.
 */
static __always_inline u32 node_id6(const __be32 *address)
{
	const u32 odd = 0x9e3779b1;

	return ((address[0] * odd + address[1]) * odd + address[2]) * odd + address[3];
}

static __always_inline bool same_address(const __be32 *a, const __be32 *b)
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]));
}

/* Note the hop that a packet came with. */
static __always_inline void set_hop(struct packet *pkt, u32 hop)
{
	pkt->hop = hop & ~HOP_IN_GRACE;
	pkt->in_grace = hop & HOP_IN_GRACE;
}

/* Return the hop that the packet leaves this node with. */
static __always_inline u32 next_hop(const struct packet *pkt)
{
	return (pkt->hop + pkt->hop_offset + 1) | pkt->in_grace;
}

/* `offset` is 0 for the first fragment. Without a branch, which would have the verifier walk all the rest twice. */
static __always_inline enum packet_kind parse_fragment(struct packet *pkt, __be16 offset)
{
	pkt->fragment = FIRST_FRAGMENT + (((u32)offset + 0xffff) >> 16);
	pkt->opens = true; /* its socket cannot be looked up */
	return KIND_FLOW;
}

static __always_inline void forget_flow(const struct conf *conf, struct packet *pkt)
{
	FORGET(conf, pkt->protocol);
	FORGET(conf, pkt->opens);
	FORGET(conf, pkt->fragment);
	if (pkt->collects)
		return; /* the rest is 0 */
	FORGET(conf, pkt->tcp);
	FORGET(conf, pkt->icmp_error);
}

static __always_inline void forget_packet(const struct conf *conf, struct packet *pkt)
{
	forget_flow(conf, pkt);
	FORGET(conf, pkt->family);
	FORGET(conf, pkt->prev_family);
	FORGET(conf, pkt->length);
	FORGET(conf, pkt->l2);
	FORGET(conf, pkt->outer);
}
