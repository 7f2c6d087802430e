/* SPDX-License-Identifier: GPL-2.0-only */
#include <linux/types.h>

/* The addresses are struct in6_addr in the kernel's own. */
struct ipv6hdr {
	__u8 priority : 4, version : 4;
	__u8 flow_lbl[3];
	__be16 payload_len;
	__u8 nexthdr;
	__u8 hop_limit;
	__be32 saddr[4];
	__be32 daddr[4];
};
