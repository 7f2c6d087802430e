/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whether a packet is to an address of the NAT pool, or of the former one, which is of the same size: its sessions have
 * slots among those of the others, and their own addresses in their records. Without NAT, no packet is.
 */
#pragma once

#include "lb.h"
#include "nat_layout.h"
#include "packet.h"

#define FOR_NAT (-3) /* in place of an XDP verdict: for the NAT programs; see nat.h */

static __always_inline const struct nat_conf *find_nat_conf(void)
{
#if NAT
	u32 zero = 0;

	return nat_confs.lookup(&zero);
#else
	return NULL;
#endif
}

/* Whether one of two differences is 0. By one branch: the verifier walks what follows each. */
static __always_inline bool is_one_of(u32 a, u32 b)
{
	return !((u64)a * b);
}

static __always_inline bool is_in_pool4(__be32 address)
{
	const struct nat_conf *nat = find_nat_conf();

	return nat && is_one_of((address | nat->hosts4) ^ nat->last4, (address | nat->hosts4) ^ nat->former4);
}

/* Return the bits in which an address differs from those of a pool: one value, no branches. */
static __always_inline u32 pool_difference6(const __be32 *address, __be32 hosts, const __be32 *last)
{
	return (address[0] ^ last[0]) | (address[1] ^ last[1]) | (address[2] ^ last[2]) |
	       ((address[3] | hosts) ^ last[3]);
}

static __always_inline bool is_in_pool6(const __be32 *address)
{
	const struct nat_conf *nat = NAT6 ? find_nat_conf() : NULL;

	return nat && is_one_of(pool_difference6(address, nat->hosts6, nat->last6),
				pool_difference6(address, nat->hosts6, nat->former6));
}

static __always_inline bool is_in_pool(const struct packet *pkt)
{
	return pkt->family == 4 ? is_in_pool4(pkt->vip[0]) : pkt->family == 6 && is_in_pool6(pkt->vip);
}
