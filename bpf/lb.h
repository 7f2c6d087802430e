/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the program and Python share: limits, the counters, the structs that lie in the maps.
 *
 * layout.py is the other side. Every compile appends assertions made from it (sizes, offsets, counter
 * numbers), so the two cannot drift apart unseen. Multi-byte fields are in host order unless typed __be*.
 *
 * Given by -D at each compile: ROWS (rows per service, a power of two), UPLINK (this program's place in
 * `uplinks`), PINS (folder of the maps in bpffs), PROGRAM (the function's name, which the kernel shows).
 */

#define CHAIN 8		/* nodes a row holds; also K, the hop after which no node forwards any more */
#define NODES 1024	/* nodes a cluster may have; index 0 means "none" */
#define SLOTS 256	/* tables and counter sets; slot 0 is for packets that belong to no service */
#define SERVICES 4096	/* (VIP, protocol, port) keys */
#define UPLINKS 8

/*
 * What happens to packets, counted per CPU and service. pick() answers with one of these, and the verdict
 * follows from its place: up to NO_MEMBER the packet passes to the kernel, FORWARD_* go on to the next node,
 * from DROP_GRACE on it is dropped.
 */
enum counter {
	/* Not verdicts: how a packet came in, what it met on its way. */
	RX,			/* straight from the router */
	RX_FORWARDED,		/* from another node */
	RX_ICMP_ERROR,		/* about a flow of the service */
	SKIP_NO_MAC,		/* a chain's node was passed over: its MAC was never known */

	PASS_OTHER_MAC,		/* not to this interface (a switch that floods) */
	PASS_OTHER,		/* not for a service */
	DELIVER_OWNER,		/* a SYN at the row's owner: a new connection */
	DELIVER_AWAY,		/* a SYN forwarded to this node though another owns the row */
	DELIVER_UDP,		/* a datagram at the row's owner, or forwarded to this node */
	DELIVER_SOCKET,		/* has a socket here: established, SYN-RECV, or connected UDP */
	DELIVER_TIME_WAIT,	/* has a TIME-WAIT socket here */
	DELIVER_COOKIE,		/* answers one of this node's SYN cookies */
	DELIVER_SOLE,		/* this node is all of the row's chain */
	DELIVER_MISS,		/* nobody left to ask: the kernel answers (RST) */
	NO_MEMBER,		/* the row is empty */

	FORWARD_FIRST,		/* sent with hop 1 */
	FORWARD_AGAIN,		/* sent with hop 2 or more: an older owner is being looked for */

	DROP_GRACE,		/* nobody left to ask, but the row changed just now: TCP sends again */
	DROP_HOPS,		/* forwarded more than CHAIN times: tables disagree */
	DROP_FORWARD_RATE,	/* more forwards with hop >= 2 than this CPU's share */
	DROP_FRAGMENT,		/* no ports to go by */
	DROP_MALFORMED,		/* lengths that contradict each other */
	COUNTERS,
};

struct stats {
	u64 count[COUNTERS];
};

/* One per node. */
struct conf {
	u64 vip_filter;		/* bit vip_bit(VIP) is set for each VIP: tells most other packets at once */
	u32 hash_key[2];	/* the cluster's secret: who knows it can aim at one server */
	u32 again_cost_ns;	/* a forward with hop >= 2 uses up so much of its CPU's time budget ... */
	u32 again_burst_ns;	/* ... and may run so far ahead of the clock */
	u16 self;		/* own index in nodes */
	u16 self_tag;
	u32 pad;
};

struct uplink {
	u8 mac[6];
	u16 redirect;		/* leave by bpf_redirect(), not by XDP_TX; see forward.h */
	u32 ifindex;
};

/* Port 0 is for any port, and present for each (VIP, protocol) that has a service: slot 0 if none takes any port. */
struct service_key {
	__be32 vip;
	__be16 port;
	u8 protocol;
	u8 pad;
};

struct service {
	u32 slot;
	u8 up;			/* this node takes new connections of it */
	u8 affinity;		/* AFFINITY_*: what its flow hash covers */
	u8 forward;		/* FORWARD_BY_*: how a packet reaches the next node */
	u8 pad;
};

enum { AFFINITY_FIVE_TUPLE };
enum { FORWARD_BY_L2 };

struct node {
	u8 mac[6];
	u16 tag;		/* low 16 bits of the address */
	__be32 address;
	u32 flags;
};

enum { NODE_HAS_MAC = 1 };	/* mac is, or once was, the right one */

/* A row's chain: indexes into nodes, owner first, 0 after the last. */
struct row {
	u16 node[CHAIN];
};
