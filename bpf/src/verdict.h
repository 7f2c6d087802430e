/* SPDX-License-Identifier: GPL-2.0-only */
/* The verdict of each counter. Every counter is in exactly one of these sets. */
#pragma once

#include "lb.h"

#define SET_OF(counter) (1ULL << (counter))

/* No verdict: how a packet came, and what happened to it on the path to its verdict. */
#define NO_VERDICT                                                                                                     \
	(SET_OF(RX) | SET_OF(RX_FORWARDED) | SET_OF(RX_TUNNEL) | SET_OF(RX_ICMP_ERROR) | SET_OF(RX_FAR_RESET) |        \
	 SET_OF(SKIP_NO_MAC) | SET_OF(SKIP_SILENT) | SET_OF(SKIP_NARROW))

/* To the kernel, because no member's row decides. */
#define PASSES                                                                                                         \
	(SET_OF(PASS_OTHER_MAC) | SET_OF(PASS_OTHER_VLAN) | SET_OF(PASS_NO_SERVICE) | SET_OF(PASS_FOREIGN_TUNNEL) |    \
	 SET_OF(PASS_NO_MEMBER))

/* To the kernel, which has the flow or answers for it; without the tunnel's headers. */
#define DELIVERIES                                                                                                     \
	(SET_OF(DELIVER_OWNER) | SET_OF(DELIVER_FORWARDED_SYN) | SET_OF(DELIVER_UDP) | SET_OF(DELIVER_FRAGMENT) |      \
	 SET_OF(DELIVER_SOCKET) | SET_OF(DELIVER_TIME_WAIT) | SET_OF(DELIVER_SYN_COOKIE) | SET_OF(DELIVER_ONLY_NODE) | \
	 SET_OF(DELIVER_CHAIN_END) | SET_OF(DELIVER_NARROW))

/* To another node, or by NAT to the other end of the session. */
#define FORWARDS                                                                                                       \
	(SET_OF(FORWARD_FIRST) | SET_OF(FORWARD_AGAIN) | SET_OF(FORWARD_FRAGMENT) | SET_OF(FORWARD_DELAYED) |          \
	 SET_OF(FORWARD_BACKEND) | SET_OF(FORWARD_CLIENT))

/* Back to the sender. */
#define REPLIES (SET_OF(REPLY_TOO_BIG) | SET_OF(REPLY_ECHO) | SET_OF(REPLY_RESET))

#define DROPS                                                                                                          \
	(SET_OF(DROP_GRACE) | SET_OF(DROP_SILENT) | SET_OF(DROP_HOP_LIMIT) | SET_OF(DROP_RATE_LIMIT) |                 \
	 SET_OF(DROP_FRAGMENT) | SET_OF(DROP_MALFORMED) | SET_OF(DROP_IPV6_HEADERS) | SET_OF(DROP_LAND) |              \
	 SET_OF(DROP_MARTIAN) | SET_OF(DROP_DENIED) | SET_OF(DROP_GROUP_MAC) | SET_OF(DROP_OTHER_PROTOCOL) |           \
	 SET_OF(DROP_NO_MEMBER) | SET_OF(DROP_TOO_BIG) | SET_OF(DROP_NO_HEADROOM) | SET_OF(DROP_FORGED) |              \
	 SET_OF(DROP_NAT_FULL) | SET_OF(DROP_NAT_FOREIGN) | SET_OF(DROP_NAT_NO_SESSION) | SET_OF(DROP_NAT_FRAGMENT) |  \
	 SET_OF(DROP_NAT_NO_BACKEND) | SET_OF(DROP_NAT_NO_MAC) | SET_OF(DROP_NAT_TTL))

/* Sets that share nothing have a sum without a carry: the sum is all bits only if each bit is in one set. */
_Static_assert((NO_VERDICT | PASSES | DELIVERIES | FORWARDS | REPLIES | DROPS) == SET_OF(COUNTERS) - 1,
	       "a counter has no verdict");
_Static_assert(NO_VERDICT + PASSES + DELIVERIES + FORWARDS + REPLIES + DROPS == SET_OF(COUNTERS) - 1,
	       "a counter has two verdicts");

/* The drops come last, so that one comparison finds them: a mask costs 1 ns. */
_Static_assert(DROPS == SET_OF(COUNTERS) - SET_OF(DROP_GRACE), "the drops are not the last counters");

static __always_inline bool is_drop(enum counter event)
{
	return event >= DROP_GRACE;
}
