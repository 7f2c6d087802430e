/* SPDX-License-Identifier: GPL-2.0-only */
#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
