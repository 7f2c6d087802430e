/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the program and Python share: limits, the counters, the structs that lie in the maps.
 *
 * bpf/layout is its Python counterpart. Every compile appends assertions made from it (sizes, offsets, counter
 * numbers), so the two cannot drift apart unseen. Multi-byte fields are in host order unless typed __be*.
 *
 * Given by -D at each compile: ROWS (rows per service, a power of two), UPLINK (this program's place in
 * `uplinks`), PINS (folder of the maps in bpffs), PROGRAM (the function's name, which the kernel shows), and IPV6:
 * whether services or nodes have IPv6 addresses.
 *
 * Addresses are four words: an IPv4 address is the first, and the others are 0.
 */

#ifndef IPV6
#define IPV6 1
#endif

#define CHAIN 8            /* nodes a row holds; also K, the hop after which no node forwards any more */
#define NODES 1024         /* nodes a cluster may have; index 0 means "none" */
#define SLOTS 256          /* tables and counter sets; slot 0 is for packets that belong to no service */
#define BANKS 2            /* epochs that a node may look into at once; each has a table of every service */
#define JOINED_PLACES 7    /* taken of the two rows of a packet, if there are two: see pick.h */
#define SERVICES 4096      /* (VIP, protocol, port) keys */
#define SERVICE_CACHE 4096 /* entries of `front`, a power of two */
#define UPLINKS 8
#define PREFIXES 65536 /* entries of the deny list, and of the list of node prefixes */
#define KEY_WORDS 10   /* of the flow hash; see flow.h */

/*
 * What happens to packets, counted per CPU and service. pick() answers with one of these, and the verdict
 * follows from its place: up to PASS_NO_MEMBER the packet passes to the kernel, FORWARD_* go on to the next node,
 * REPLY_TOO_BIG is sent back, from DROP_GRACE on it is dropped.
 */
enum counter {
	/* Not verdicts: how a packet came in, what it met on its way. */
	RX,            /* straight from the router */
	RX_FORWARDED,  /* from another node */
	RX_TUNNEL,     /* in a tunnel's header, which was opened */
	RX_ICMP_ERROR, /* about a flow of the service */
	SKIP_NO_MAC,   /* a chain's node was passed over: no MAC to send to was ever known */

	PASS_OTHER_MAC,        /* not to this interface (a switch that floods) */
	PASS_NO_SERVICE,       /* not for a service */
	PASS_FOREIGN_TUNNEL,   /* a tunnel's header to this node that no node of the cluster sent, or for no service */
	DELIVER_OWNER,         /* a SYN at the row's owner: a new connection */
	DELIVER_FORWARDED_SYN, /* a SYN forwarded to this node though another owns the row */
	DELIVER_UDP,           /* a datagram at the row's owner, or forwarded to this node */
	DELIVER_FRAGMENT,      /* a fragment, likewise */
	DELIVER_SOCKET,        /* has a socket here: established, SYN-RECV, or connected UDP */
	DELIVER_TIME_WAIT,     /* has a TIME-WAIT socket here */
	DELIVER_SYN_COOKIE,    /* answers one of this node's SYN cookies */
	DELIVER_ONLY_NODE,     /* this node is all of the row's chain */
	DELIVER_CHAIN_END,     /* nobody left to ask: the kernel answers (RST) */
	PASS_NO_MEMBER,        /* the row is empty */

	FORWARD_FIRST, /* sent with hop 1 */
	FORWARD_AGAIN, /* sent with hop 2 or more: an older owner is being looked for */
	REPLY_TOO_BIG, /* does not fit into the tunnel: the client was told by ICMP */

	DROP_GRACE,        /* nobody left to ask, but the row changed just now: TCP sends again */
	DROP_HOP_LIMIT,    /* forwarded more than CHAIN times: tables disagree */
	DROP_RATE_LIMIT,   /* more forwards with hop >= 2 than this CPU's share */
	DROP_FRAGMENT,     /* no ports to go by */
	DROP_MALFORMED,    /* lengths that contradict each other */
	DROP_IPV6_HEADERS, /* IPv6 extension headers that are unknown, or too many */
	DROP_LAND,         /* from the VIP to itself */
	DROP_MARTIAN,      /* from an address that no client can have */
	DROP_DENIED,       /* from a prefix of the deny list */
	DROP_NO_MEMBER,    /* the row is empty, and the service wants such packets dropped */
	DROP_TOO_BIG,      /* does not fit into the tunnel, and the client could not be told, or too often already */
	DROP_NO_HEADROOM,  /* the driver left no room for the tunnel's header */
	COUNTERS,
};

struct stats {
	u64 count[COUNTERS];
};

/* One per node. */
struct conf {
	u64 vip_filter;                 /* bit vip_bit(VIP) is set for each VIP: tells most other packets at once */
	u64 hash_key[BANKS][KEY_WORDS]; /* from the cluster's secrets: who knows one can aim at one server */
	u32 epoch[BANKS];               /* which epoch a side is for, as the agent names it; 0: none */
	u32 again_cost_ns;              /* a forward with hop >= 2 uses up so much of its CPU's time budget ... */
	u32 again_burst_ns;             /* ... and may run so far ahead of the clock */
	u16 self;                       /* own index in nodes */
	u16 self_tag;
	u32 flags;               /* CONF_* */
	u8 order[JOINED_PLACES]; /* of two rows: places of the first, and CHAIN more for those of the other */
	u8 unmetered;            /* so many forwards of a packet are held to no rate: 1, or 2 */
	__be32 address;          /* where tunnels to this node end, and the source of those from it; 0: none */
	__be32 address6[4];      /* the same for IPv6 */
	u32 zero;                /* always 0; see forget() */
};

enum {
	CONF_DENY = 1,    /* the deny list is not empty */
	CONF_SAMPLE = 2,  /* packets are sampled */
	CONF_OUTER_4 = 4, /* `address` is there */
	CONF_OUTER_6 = 8,
	CONF_BANK = 16, /* the second bank's epoch is the one that new flows go by; else the first bank's */
	CONF_BOTH = 32, /* the other bank's rows are looked into, too */
};

/* What is held to a rate, each CPU for itself; see ratelimit.h. */
enum budget {
	AGAIN,        /* forwards with hop >= 2 */
	TELL_TOO_BIG, /* ICMP to clients */
	RATE_LIMITS,
};

struct uplink {
	u8 mac[6];
	u16 redirect; /* leave by bpf_redirect(), not by XDP_TX; see forward.h */
	u32 ifindex;
};

/*
 * Port 0 is for any port, and present for each (VIP, protocol) that has a service: SERVICE_PORTS_ONLY if none
 * takes any port. Protocol 0 (and port 0) is present for each VIP.
 */
struct service_key {
	__be32 vip[4];
	__be16 port;
	u8 protocol;
	u8 family; /* 4 or 6 */
};

struct service {
	u32 slot;
	u8 up;       /* this node takes new connections of it */
	u8 affinity; /* AFFINITY_*: what its flow hash covers */
	u8 forward;  /* FORWARD_BY_*: how a packet reaches the next node */
	u8 flags;    /* SERVICE_* */
};

enum { AFFINITY_FIVE_TUPLE, AFFINITY_THREE_TUPLE, AFFINITY_TWO_TUPLE };
enum { FORWARD_BY_L2, FORWARD_BY_IPIP, FORWARD_BY_GUE };
enum {
	SERVICE_PORTS_ONLY = 1,     /* no service: says that (VIP, protocol), or the VIP, has one */
	SERVICE_FRAGMENTS = 2,      /* fragments are served: no ports in its affinity, alone for (VIP, protocol) */
	SERVICE_DROP_NO_MEMBER = 4, /* rather than the kernel's answer, silence while there is no member */
};

/*
 * `services` in an array by a hash of the key, which costs 2 ns instead of a hash map's 23: the entry tells by its key
 * whether it is the one, and by `crowded` whether more keys have this place and the map must be asked.
 */
struct front {
	struct service service;
	struct service_key key;
	u32 crowded;
};

/* A next hop: a node, and the way there. */
struct node {
	u8 mac[6]; /* of the node, or of the router on the way to it */
	u16 tag;   /* low 16 bits of the address */
	__be32 address;
	u32 flags;    /* NODE_* */
	u32 ifindex;  /* of the interface to leave by; 0: the one that the packet came by */
	u8 source[6]; /* that interface's MAC */
	u16 vlan;     /* tag to put on a tunnel's frames; 0: none */
	u16 mtu;      /* the largest IP packet that gets there */
	u16 pad;
	__be32 address6[4];
};

enum {
	NODE_HAS_MAC = 1, /* mac is, or once was, the right one */
	NODE_ON_LINK = 2, /* mac is the node's own: no router on the way */
	NODE_OUTER_6 = 4, /* tunnels to it are IPv6 */
};

/* A row's chain: indexes into nodes, owner first, 0 after the last. */
struct row {
	u16 node[CHAIN];
};

/* Key of the prefix maps. The family comes first, and counts for 32 bits of the length: ::/0 is not 0.0.0.0/0. */
struct prefix {
	u32 length;
	u32 family;
	__be32 address[4];
};

#define ANY_SAMPLE 0xffffffff
#define SAMPLE_BYTES 128

/* Which packets are sampled: one in `every` of those that match all the rest. */
struct sampling {
	u32 every;
	u32 slot;   /* or ANY_SAMPLE */
	u32 event;  /* or ANY_SAMPLE */
	u32 family; /* 0: any */
	__be32 client[4], mask[4];
};

struct sample {
	u64 time_ns; /* CLOCK_MONOTONIC */
	u32 ifindex;
	u32 length; /* of the frame */
	u16 slot;
	u16 event;
	u16 prev;
	u8 hop;
	u8 kept; /* of the frame, here: */
	u8 bytes[SAMPLE_BYTES];
};
