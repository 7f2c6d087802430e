/* SPDX-License-Identifier: GPL-2.0-only */
/* Looks up the service of a packet, and its rows. */
#pragma once

#include "lb.h"
#include "maps.h"
#include "packet.h"

#define GOLDEN 2654435769u /* 2^32 / golden ratio (Knuth): for multiplicative hashes */

static __always_inline u32 fold_address(const __be32 *address, u8 family)
{
	return family == 4 ? address[0] : address[0] ^ address[1] ^ address[2] ^ address[3];
}

/* Whether the address's bit is set in conf.vip_filter, by a multiplicative hash. In Python: bpf/layout/conf.py. */
static __always_inline bool may_be_vip(const struct conf *conf, u32 folded_address)
{
	return conf->vip_filter >> ((folded_address * GOLDEN) >> 26) & 1;
}

/* Return the index in `service_cache`. `ends` are the key's last four bytes. In Python: bpf/layout/service_cache.py. */
static __always_inline u32 cache_place(const struct packet *pkt, u32 ends)
{
	return (fold_address(pkt->vip, pkt->family) * GOLDEN + ends * 0x846ca68bu) >> 20;
}

/* Look up the packet's VIP with that port and protocol, in the cache and, where two keys share an entry, in the map. */
static __always_inline struct service *lookup_service(const struct packet *pkt, __be16 port, u8 protocol)
{
	u32 ends = port | protocol << 16 | pkt->family << 24;
	u32 place = cache_place(pkt, ends);
	struct cached_service *entry = service_cache.lookup(&place);
	struct service_key key;

	if (!entry)
		return NULL;
	if (*(u32 *)&entry->key.port == ends && entry->key.vip[0] == pkt->vip[0] &&
	    (pkt->family == 4 || (entry->key.vip[1] == pkt->vip[1] && entry->key.vip[2] == pkt->vip[2] &&
				  entry->key.vip[3] == pkt->vip[3])))
		return &entry->service;
	if (!entry->crowded)
		return NULL;
	__builtin_memcpy(key.vip, pkt->vip, sizeof(key.vip));
	key.port = port;
	key.protocol = protocol;
	key.family = pkt->family;
	return services.lookup(&key);
}

/* By port, else for any port. NULL: no service has this VIP and protocol. */
static __always_inline struct service *find_service(const struct packet *pkt)
{
	struct service *service = NULL;

	if (pkt->vip_port)
		service = lookup_service(pkt, pkt->vip_port, pkt->protocol);
	return service ?: lookup_service(pkt, 0, pkt->protocol);
}

/* Return whose counters a packet is counted in that is for none of the VIP's ports, or of unknown ones; 0: none's. */
static __always_inline u32 counted_slot(const struct service *service)
{
	return (service->flags & (SERVICE_PORTS_ONLY | SERVICE_FRAGMENTS)) == SERVICE_PORTS_ONLY ? 0 : service->slot;
}

/* Return the bank of new flows. The verifier wants the bound. */
static __always_inline u32 active_bank(const struct conf *conf)
{
	return conf->bank % BANKS;
}

/* Whether the rows of two epochs decide. */
static __always_inline bool uses_two_banks(const struct conf *conf, const struct packet *pkt)
{
	return !pkt->plain && conf->two_banks;
}

/* Return the number of the same service's table in the other bank. */
static __always_inline u32 other_table(u32 table)
{
	return table ^ SLOTS;
}

/* `table` is its number; see TABLES. */
static __always_inline struct row *find_row(u32 table, u32 r)
{
	void *all = rows.lookup(&table);

	return all ? bpf_map_lookup_elem(all, &r) : NULL;
}
