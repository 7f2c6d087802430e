/* SPDX-License-Identifier: GPL-2.0-only */
/* Finds the service of a packet, and its table. */

#define GOLDEN 2654435769u /* 2^32 / golden ratio (Knuth): for multiplicative hashes */

static __always_inline u32 folded(const __be32 *address, u8 family)
{
	return family == 4 ? address[0] : address[0] ^ address[1] ^ address[2] ^ address[3];
}

/* Multiplicative hash into conf.vip_filter. In Python: bpf/layout/conf.py. */
static __always_inline bool may_be_vip(const struct conf *conf, u32 folded_address)
{
	return conf->vip_filter >> ((folded_address * GOLDEN) >> 26) & 1;
}

/* Place in `front`. In Python: bpf/layout/service_cache.py. */
static __always_inline u32 front_place(const struct packet *pkt, u32 kind)
{
	return (folded(pkt->vip, pkt->family) * GOLDEN + kind * 0x846ca68bu) >> 20;
}

static __always_inline struct service *find_entry(const struct packet *pkt, __be16 port, u8 protocol)
{
	u32 kind = port | protocol << 16 | pkt->family << 24;
	u32 place = front_place(pkt, kind);
	struct front *entry = front.lookup(&place);
	struct service_key key;

	if (!entry)
		return NULL;
	if (*(u32 *)&entry->key.port == kind && entry->key.vip[0] == pkt->vip[0] &&
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

/* By port, else for any port. NULL: nothing here serves this VIP and protocol. */
static __always_inline struct service *find_service(const struct packet *pkt)
{
	struct service *service = NULL;

	if (pkt->vip_port)
		service = find_entry(pkt, pkt->vip_port, pkt->protocol);
	return service ?: find_entry(pkt, 0, pkt->protocol);
}

/* `table`: a slot, and SLOTS more for the second side. */
static __always_inline struct row *find_row(u32 table, u32 r)
{
	void *all = rows.lookup(&table);

	return all ? bpf_map_lookup_elem(all, &r) : NULL;
}
