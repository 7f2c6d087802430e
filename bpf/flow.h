/* SPDX-License-Identifier: GPL-2.0-only */
/* A flow's row: the keyed hash that must be the same on all nodes. Twin: flow.py. */

static __always_inline u32 rotate(u32 word, int bits)
{
	return word << bits | word >> (32 - bits);
}

/* The final mix of Bob Jenkins' lookup3 (2006, public domain), as in the kernel's jhash.h: 3 words to 1. */
static __always_inline u32 mix(u32 a, u32 b, u32 c)
{
	c ^= b; c -= rotate(b, 14);
	a ^= c; a -= rotate(c, 11);
	b ^= a; b -= rotate(a, 25);
	c ^= b; c -= rotate(b, 16);
	a ^= c; a -= rotate(c, 4);
	b ^= a; b -= rotate(a, 14);
	c ^= b; c -= rotate(b, 24);
	return c;
}

/* The words are taken as they lie in the packet, so this wants a little-endian machine, as all that run it are. */
static __always_inline u32 flow_hash(const struct conf *conf, const struct packet *pkt)
{
	u32 ports = pkt->client_port | (u32)pkt->vip_port << 16;

	return mix(pkt->client + conf->hash_key[0], pkt->vip + conf->hash_key[1], ports + conf->hash_key[0]);
}
