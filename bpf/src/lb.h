/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the programs and Python share: limits, the counters, the structs in the maps.
 *
 * bpf/layout is its Python counterpart. Every compile appends assertions made from it (sizes, offsets, numbers), so the
 * two cannot differ unnoticed. Multi-byte fields are in host order unless typed __be*.
 *
 * Given by -D at each compile: ROWS (rows per service, a power of two), UPLINK (this program's index in `uplinks`),
 * PINS (folder of the maps in bpffs), PROGRAM (the function's name, which the kernel shows), IPV6: whether services or
 * nodes have IPv6 addresses, and PLAIN: whether plain packets are handled apart (plain.h), which only tests turn off.
 * NAT: whether there are services of mode nat (nat_layout.h), and NAT6: whether of IPv6 too.
 *
 * Addresses are four words: an IPv4 address is the first, and the others are 0.
 */
#pragma once

#ifndef IPV6
#define IPV6 1
#endif
#ifndef PLAIN
#define PLAIN 1
#endif
#ifndef NAT
#define NAT 0
#endif
#ifndef NAT6
#define NAT6 0
#endif

/* Places in `programs`. */
enum {
	GENERAL,
	COLLECTOR,
#if NAT
	NAT_PLAIN,
	NAT_GENERAL,
	NAT_PARSED,
#endif
	TAIL_CALLS,
};

#define CHAIN 8                /* nodes that a row holds */
#define NODES 1024             /* nodes that a cluster may have; index 0 means "none" */
#define SLOTS 256              /* tables and counter sets; slot 0 is for packets that belong to no service */
#define BANKS 2                /* epochs that a node may use at once; each has a table of every service */
#define TABLES (BANKS * SLOTS) /* a service's table is number `slot`, and `slot` + SLOTS in the second bank */
#define JOINED_PLACES 7        /* of conf.order; see chain.h */
#define SERVICES 4096          /* (VIP, protocol, port) keys */
#define SERVICE_CACHE 4096     /* entries of `service_cache`, a power of two */
#define UPLINKS 8
#define PREFIXES 65536 /* entries of the deny list, and of the list of node prefixes */
#define KEY_WORDS 10   /* of the flow hash; see flow.h */
#define FIRST_FRAGMENTS 4096

#define HOP_MAX (CHAIN + 2)               /* the hop of a packet that was forwarded as often as the rule allows */
#define COLLECT_HOP (HOP_MAX + 1)         /* of a fragment on its way to the node that collects: see collect.h ... */
#define COLLECT_HOP_MAX (COLLECT_HOP + 4) /* ... and when it has waited twice; the flow label has 4 bits */
#define HOP_IN_GRACE 0x10                 /* added to the hop: a row on the packet's path is in grace; see pick.h */

/* The marker of forward l2: the source MAC 02:4c:42:HH:TT:TT (locally administered, then "LB"), hop, sender's tag. */
#define MARKER 0x424c02
#define MARKER_MASK 0xffffff

#define GUE_PORT 6080
#define IPV6_MTU_MIN 1280

/*
 * What happens to packets, counted per CPU and service. Names begin with the packet's verdict, and verdict.h has the
 * verdict of each; RX and SKIP are none. pick() returns one of them.
 */
enum counter {
	RX,            /* A packet of the service came straight from the router. */
	RX_FORWARDED,  /* A packet of the service came from another node. */
	RX_TUNNEL,     /* A packet of the service came in a tunnel, whose headers were valid. */
	RX_ICMP_ERROR, /* An ICMP error about a flow of the service came. */
	RX_FAR_RESET,  /* A RST came whose sequence number is far from its session's: it does not close it. */
	SKIP_NO_MAC,   /* A node of the chain was skipped: no MAC for it is known, or `forward` cannot reach it. */
	SKIP_SILENT,   /* A node of the chain was skipped: its data path does not answer. */
	SKIP_NARROW,   /* A node of the chain was skipped: the tunnel to it is too narrow for IPv6. */

	PASS_OTHER_MAC,        /* The frame is for another MAC than this interface's (a switch that floods). */
	PASS_OTHER_VLAN,       /* The frame is in a VLAN that the configuration does not name. */
	PASS_NO_SERVICE,       /* The packet is not for any service. */
	PASS_FOREIGN_TUNNEL,   /* A tunnel to this node is not from a node of the cluster, or not for a service. */
	DELIVER_OWNER,         /* A SYN reached its row's owner: a new connection. */
	DELIVER_FORWARDED_SYN, /* A SYN was forwarded to this node, although another owns the row: a new connection. */
	DELIVER_UDP,           /* A datagram reached its row's owner, or was forwarded to this node. */
	DELIVER_FRAGMENT,      /* A fragment reached its row's owner, or was forwarded to this node. */
	DELIVER_SOCKET,        /* The packet has a socket here: established, SYN-RECV, or connected UDP. */
	DELIVER_TIME_WAIT,     /* The packet has a TIME-WAIT socket here. */
	DELIVER_SYN_COOKIE,    /* The packet answers one of this node's SYN cookies. */
	DELIVER_ONLY_NODE,     /* This node is the whole chain of the row. */
	DELIVER_CHAIN_END,     /* No node of the chain is left to try: the kernel answers (RST). */
	DELIVER_NARROW, /* What opens an IPv6 flow is taken here: the tunnels to the nodes left are too narrow. */
	PASS_NO_MEMBER, /* The row is empty: the service has no member. */

	FORWARD_FIRST,    /* The packet was sent to another node with hop 1. */
	FORWARD_AGAIN,    /* The packet was sent to another node with hop 2 or more, in search of an older owner. */
	FORWARD_FRAGMENT, /* A fragment was sent to the node that collects its packet's. */
	FORWARD_DELAYED,  /* A fragment was sent to another node or back, to wait for the first of its packet. */
	FORWARD_BACKEND,  /* A client's packet of a NAT service was sent to its backend. */
	FORWARD_CLIENT,   /* A backend's packet of a NAT service was sent to its client. */
	REPLY_TOO_BIG,    /* The packet does not fit into the tunnel, and an ICMP error was sent to the client. */
	REPLY_ECHO,       /* An echo question was answered. */
	REPLY_RESET,      /* A segment without a session was answered with a RST. */

	DROP_GRACE,          /* No node of the chain is left to try, but the row has just changed: TCP sends again. */
	DROP_SILENT,         /* No node of the chain is left to try, but a silent one may come back with the flow. */
	DROP_HOP_LIMIT,      /* The packet was forwarded HOP_MAX times: tables disagree. */
	DROP_RATE_LIMIT,     /* This CPU has used up its rate of forwards with hop 2 or more. */
	DROP_FRAGMENT,       /* A fragment's flow is unknown: the first one did not come. Or it is of an ICMP error. */
	DROP_MALFORMED,      /* Lengths in the packet contradict each other. */
	DROP_IPV6_HEADERS,   /* The packet has too many IPv6 extension headers, or a routing header not used up. */
	DROP_LAND,           /* The packet is from the VIP to itself. */
	DROP_MARTIAN,        /* The packet is from an address that no client can have. */
	DROP_DENIED,         /* The packet is from a prefix of the deny list. */
	DROP_GROUP_MAC,      /* The packet is to a VIP, but the frame to a broadcast or multicast MAC. */
	DROP_OTHER_PROTOCOL, /* The packet is neither TCP, UDP nor ICMP, and the configuration wants such dropped. */
	DROP_NO_MEMBER,      /* The row is empty, and the service wants such packets dropped. */
	DROP_TOO_BIG, /* The packet does not fit into the tunnel, and an ICMP error was impossible or above its rate. */
	DROP_NO_HEADROOM,    /* The driver left no room for the tunnel's headers. */
	DROP_FORGED,         /* A process of this node sent another node a marker or a tunnel: only this program may. */
	DROP_NAT_FULL,       /* The session's two buckets have no room: a SYN or a datagram is dropped. */
	DROP_NAT_FOREIGN,    /* A packet to a NAT address is no session's, and no node is left to try. */
	DROP_NAT_NO_SESSION, /* A client's packet without a session, which cannot be answered with a RST. */
	DROP_NAT_FRAGMENT,   /* A fragment to a NAT service or a NAT address. */
	DROP_NAT_NO_BACKEND, /* A new session, but no backend of the service takes any. */
	DROP_NAT_NO_MAC,     /* The next hop to the backend or to the client is unknown. */
	DROP_NAT_TTL,        /* The packet's TTL, or hop limit, ends here. */
	COUNTERS,
};

struct stats {
	u64 count[COUNTERS];
};

/* One per node. */
struct conf {
	u64 vip_filter;                 /* a bit for each VIP: rules out most other packets at once */
	u64 hash_key[BANKS][KEY_WORDS]; /* from the clusters' secrets: who knows one can aim at one server */
	u32 epoch[BANKS];               /* the agent's number of each bank's epoch; 0: none */
	u32 again_cost_ns;              /* a forward with hop >= 2 uses up so much of its CPU's time ... */
	u32 again_burst_ns;             /* ... and may run so far ahead of the clock; see ratelimit.h */
	u16 self;                       /* own index in nodes */
	u16 self_tag;
	/* These three and the two before share a word: the kernel copies words, so they change at once. */
	u8 bank;                 /* the bank whose epoch new flows use */
	u8 two_banks;            /* the rows of the other bank's epoch are used too */
	u16 flags;               /* CONF_* */
	u8 order[JOINED_PLACES]; /* of the joined chain: places of the first row, and of the other CHAIN more */
	u8 unmetered;            /* so many forwards of a packet are not rate-limited: 1 or 2 */
	__be32 address;          /* where tunnels to this node end, and the source of those from it; 0: none */
	__be32 address6[4];      /* the same for IPv6 */
	u32 cluster;             /* whose echo questions are answered ... */
	__be16 echo_port;        /* ... and the UDP port that they come to */
	u16 pad;                 /* always 0 */
	u32 zero;                /* always 0; see verifier.h */
};

enum {
	CONF_DENY = 1,                  /* the deny list is not empty */
	CONF_SAMPLE = 2,                /* packets are sampled */
	CONF_OUTER_4 = 4,               /* `address` is set */
	CONF_OUTER_6 = 8,               /* `address6` is set */
	CONF_SILENT = 16,               /* a node in `nodes` is silent */
	CONF_DROP_OTHER_PROTOCOLS = 64, /* to VIPs: what is neither TCP, UDP nor ICMP */
	CONF_CLASS_E = 32,              /* clients may have addresses of 240.0.0.0/4 */
	CONF_NARROW = 128,              /* a tunnel to a node in `nodes` cannot carry 1,280 bytes of a service's IPv6 */
};

/* What is rate-limited, on each CPU separately; see ratelimit.h. */
enum rate_limit {
	LIMIT_FORWARD_AGAIN, /* forwards with hop >= 2 */
	LIMIT_REPLY_TOO_BIG, /* ICMP errors to clients */
	LIMIT_DELAY,         /* fragments that are sent away to wait */
	LIMIT_REPLY_RESET,   /* RSTs for segments without a session */
	RATE_LIMITS,
};

struct uplink {
	u8 mac[6];
	u16 redirect; /* send by bpf_redirect(), not by XDP_TX; see forward.h */
	u32 ifindex;
};

/* The VLANs whose frames are the program's, a bit for each; that of 0, a tag with a priority alone, is set too. */
struct vlan_set {
	u64 bits[64];
};

/*
 * Port 0 means any port, and has an entry for each (VIP, protocol) with a service: SERVICE_PORTS_ONLY if no service
 * takes any port. Protocol 0 (and port 0) has an entry for each VIP.
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
	SERVICE_PORTS_ONLY = 1, /* not a service: only shows that (VIP, protocol), or the VIP, has one. Of the former,
				     * slot and forward are those of the service by which fragments are collected */
	SERVICE_FRAGMENTS = 2,  /* fragments are served: no ports in its affinity, alone for (VIP, protocol) */
	SERVICE_DROP_NO_MEMBER = 4, /* packets are dropped, not passed to the kernel, while there is no member */
	SERVICE_NAT = 8,            /* of mode nat: see nat.h; of PORTS_ONLY: all services of (VIP, protocol) are */
};

/*
 * An entry of `service_cache`: `services` as an array by a hash of the key, which costs 2 ns instead of a hash map's
 * 23. The key shows whether the entry is the right one, and `crowded` whether more keys have this place, so that the
 * map must be searched.
 */
struct cached_service {
	struct service service;
	struct service_key key;
	u32 crowded;
};

/* A node as a next hop. */
struct node {
	u8 mac[6]; /* of the node, or of the router on the route to it */
	u16 tag;   /* low 16 bits of the address */
	__be32 address;
	u32 flags;    /* NODE_* */
	u32 ifindex;  /* of the interface to leave by; 0: the one by which the packet came */
	u8 source[6]; /* that interface's MAC */
	u16 vlan;     /* tag to put on a tunnel's frames; 0: none */
	u16 mtu;      /* the largest IP packet that gets there */
	u16 pad;
	__be32 address6[4];
	u64 drop_until; /* silent here or elsewhere: what may be its is dropped until then (CLOCK_MONOTONIC, ns) */
};

enum {
	NODE_HAS_MAC = 1, /* `mac` is, or once was, the right one */
	NODE_ON_LINK = 2, /* `mac` is the node's own: no router is in between */
	NODE_OUTER_6 = 4, /* tunnels to it are IPv6 */
	NODE_SILENT = 8,  /* its data path does not answer: it is passed over in every row */
};

/* A row's chain: indexes into nodes, owner first, 0 after the last. */
struct row {
	u16 node[CHAIN];
};

/* Which packet a fragment is of (RFC 791 section 3.2, RFC 8200 section 4.5). */
struct fragment_key {
	__be32 client[4], vip[4];
	__be32 id;
	u8 protocol;
	u8 family;
	u16 pad;
};

/* What the first fragment of a packet shows of its flow. */
struct first_fragment {
	u64 until_ns; /* CLOCK_MONOTONIC; then the client may use the packet's ID again */
	__be16 client_port, vip_port;
	u8 opens;
	u8 pad[3];
};

/* Key of the prefix maps. The family comes first, and counts for 32 bits of the length: ::/0 is not 0.0.0.0/0. */
struct prefix {
	u32 length;
	u32 family;
	__be32 address[4];
};

/* What the agent adds to the answers to echo questions. */
struct echo_state {
	u64 heartbeat_ns; /* CLOCK_MONOTONIC; 0: none yet */
	u64 boot;
	u32 view_digest;
	u32 tables_digest;
	u32 ready;
	u32 pad;
};

/* An echo question or its answer, the payload of a UDP datagram; see bpf/layout/echo.py. */
struct echo {
	__be32 magic;
	u8 kind;
	u8 flags;
	__be16 version;
	__be32 cluster;
	__be32 heartbeat_age_ms;
	__be64 nonce;
	__be64 boot;
	__be32 epoch[BANKS];
	__be32 view_digest;
	__be32 tables_digest;
	u8 back[6]; /* with a marker, the asker's MAC, which is in no header then */
	u8 encap;
	u8 zero[9];
};

#define ECHO_MAGIC 0x4c424543 /* "LBEC" */
#define ECHO_VERSION 1
#define ECHO_NEVER 0xffffffff /* heartbeat_age_ms without a heartbeat */

enum { ECHO_QUESTION = 1, ECHO_ANSWER = 2 };
enum { ECHO_FLAG_READY = 1, ECHO_FLAG_DATA_PATH = 2 };
enum { ENCAP_PLAIN, ENCAP_TUNNEL, ENCAP_MARKER };

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
	u16 prev; /* the tag of the node that forwarded it; 0: none, or known by an IPv6 address */
	u8 hop;
	u8 kept; /* bytes of the frame in `bytes` */
	u8 bytes[SAMPLE_BYTES];
};
