/* SPDX-License-Identifier: GPL-2.0-only */
/* What the program knows of a packet once it is parsed, and the cursor to read one with. */

enum kind {
	OTHER_MAC,	/* a frame for somebody else */
	OTHER,		/* surely not for a service */
	FLOW,		/* has a flow: look for its service */
	FRAGMENT,	/* the same, without ports */
	MALFORMED,	/* to an address that may be a VIP, with lengths that contradict each other */
};

struct packet {
	struct ethhdr *eth;
	struct iphdr *ip;
	struct tcphdr *tcp;	/* NULL unless this is a TCP segment itself, not an error about one */
	__be32 client[4], vip[4];
	__be16 client_port, vip_port;
	u8 family;		/* of the flow: 4 or 6 */
	u8 protocol;		/* of the flow: TCP or UDP */
	bool opens;		/* needs no socket to be there: a SYN, any UDP */
	bool icmp_error;
	u8 hop;			/* 0: straight from the router */
	u16 prev;		/* tag of the node that forwarded it, if hop > 0 */
};

/* The next header to read and the end of the frame. */
struct cursor {
	void *at, *end;
};

static __always_inline void *take(struct cursor *c, u32 size)
{
	void *header = c->at;

	if (header + size > c->end)
		return NULL;
	c->at = header + size;
	return header;
}
