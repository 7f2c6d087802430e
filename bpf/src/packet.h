/* SPDX-License-Identifier: GPL-2.0-only */
/* What the program knows of a packet once it is parsed, and the cursor to read one with. */

enum kind {
	OTHER,     /* surely not for a service */
	FOREIGN,   /* a tunnel's header to this node, but not the cluster's */
	FLOW,      /* has a flow, or is a fragment of one: look for its service */
	MALFORMED, /* to an address that may be a VIP, with lengths that contradict each other */
	HEADERS,   /* likewise, with IPv6 extension headers that are unknown, or too many */
	LAND,      /* likewise, from the VIP to itself */
	MARTIAN,   /* likewise, from an address that no client can have */
	DENIED,    /* likewise, from a prefix of the deny list */
};

struct packet {
	__be32 client[4], vip[4];
	__be16 client_port, vip_port;
	u8 family;      /* of the client's packet and its flow: 4 or 6 */
	u8 protocol;    /* of the flow: TCP or UDP */
	u8 dscp;        /* with the two bits of ECN, as they lie in the traffic class, 0 */
	u8 prev_family; /* of the outer header that told prev; 4 also if a MAC did */
	u32 prev;       /* who forwarded it, if hop > 0: its tag; over IPv6 name6() of its address */
	u16 length;     /* of the client's packet, from its IP header on */
	u16 l2;         /* bytes of Ethernet and VLAN tags */
	u16 outer;      /* bytes of the tunnel's headers; 0: none */
	u16 tcp;        /* where the TCP header lies in the frame; 0: this is no TCP segment itself */
	u8 hop;         /* 0: straight from the router */
	u8 opens;       /* needs no socket to be there: a SYN, any UDP */
	u8 icmp_error;
	u8 fragment; /* 0: none; else FIRST_FRAGMENT or LATER_FRAGMENT */
};

/*
 * One number for a node's IPv6 address. Not its low bits: where each server has a /64 of its own, all may end in ::1.
 * The multiplier is odd, so addresses that differ in one word never share a number; others do one time in 2^32.
 */
static __always_inline u32 name6(const __be32 *address)
{
	const u32 odd = 0x9e3779b1;

	return ((address[0] * odd + address[1]) * odd + address[2]) * odd + address[3];
}

/* Only the first has what follows the IP header. */
#define FIRST_FRAGMENT 1
#define LATER_FRAGMENT 2

/* `offset`: 0 is the first's. Without a branch: the verifier would walk all the rest for each of its ways. */
static __always_inline enum kind is_fragment(struct packet *pkt, __be16 offset)
{
	pkt->fragment = FIRST_FRAGMENT + (((u32)offset + 0xffff) >> 16);
	pkt->opens = true; /* nobody can look for its socket */
	return FLOW;
}

/*
 * The verifier walks every way through the program, and knows on each what the ways before have written: that a
 * tag was there, that the family is 6. Where ways meet again it would walk all the rest for each of them, a
 * million steps and more. So where they meet it is made to forget: a value xor a 0 that it cannot know is one that
 * it does not know. (A sum would not do: it has the value as its least.)
 */
static __always_inline void forget_flow(const struct conf *conf, struct packet *pkt)
{
	u32 zero = conf->zero;

	pkt->protocol ^= zero;
	pkt->tcp ^= zero;
	pkt->opens ^= zero;
	pkt->icmp_error ^= zero;
	pkt->fragment ^= zero;
}

static __always_inline void forget(const struct conf *conf, struct packet *pkt)
{
	u32 zero = conf->zero;

	forget_flow(conf, pkt);
	pkt->family ^= zero;
	pkt->prev_family ^= zero;
	pkt->prev ^= zero;
	pkt->length ^= zero;
	pkt->l2 ^= zero;
	pkt->outer ^= zero;
	pkt->hop ^= zero;
	pkt->client[1] ^= zero;
	pkt->client[2] ^= zero;
	pkt->client[3] ^= zero;
	pkt->vip[1] ^= zero;
	pkt->vip[2] ^= zero;
	pkt->vip[3] ^= zero;
}

/* The next header to read and the end of the frame. */
struct cursor {
	void *at, *end;
};

/* Where the frame lies now: moving its head ends all pointers into it. Never what the compiler remembers of it. */
static __always_inline void *frame_start(struct xdp_md *ctx)
{
	return (void *)(long)*(volatile u32 *)&ctx->data;
}

static __always_inline void *frame_end(struct xdp_md *ctx)
{
	return (void *)(long)*(volatile u32 *)&ctx->data_end;
}

#define HEADERS_END 0x3ff /* bytes into the frame: no header may begin beyond, a mask */

/* As forget(), for where the cursor is: a difference of pointers is unknown too. False: it is too far in the frame. */
static __always_inline bool forget_place(struct xdp_md *ctx, struct cursor *c)
{
	void *data = (void *)(long)ctx->data;
	u64 offset = c->at - data;

	c->at = data + (offset & HEADERS_END);
	return offset <= HEADERS_END;
}

static __always_inline void *take(struct cursor *c, u32 size)
{
	void *header = c->at;

	if (header + size > c->end)
		return NULL;
	c->at = header + size;
	return header;
}

/*
 * Whether so many bytes from the cursor on are in the frame: it may have more than the part that programs see
 * (frags).
 */
static __always_inline bool in_frame(struct xdp_md *ctx, const struct cursor *c, u32 length)
{
	u64 bytes = length;

	/* Linux 6.1's verifier does not know that 16 swapped bits are 16 bits; clang must not drop what tells it. */
	asm volatile("%0 &= 0xffff" : "+r"(bytes));
	return c->at + bytes <= c->end || c->at - (void *)(long)ctx->data + bytes <= bpf_xdp_get_buff_len(ctx);
}

/* Whether a packet of that length, at the cursor, is whole: in the frame, or in what the tunnel carries. */
static __always_inline bool fits(struct xdp_md *ctx, const struct cursor *c, u32 length, const struct packet *pkt)
{
	return pkt->outer ? length <= pkt->length : in_frame(ctx, c, length);
}

static __always_inline bool same_address(const __be32 *a, const __be32 *b)
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]));
}
