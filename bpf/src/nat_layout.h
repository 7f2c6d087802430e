/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the NAT program and Python share; Python's part is bpf/layout/nat.py, nat_backend.py and session.py. Only in
 * builds with NAT.
 *
 * A session is a numbered slot of one array, and the number is its NAT endpoint: slot / 32768 is the address in the
 * pool, and 0x8000 + slot % 32768 the port. So a reply names its session, and by its port the row: with more slots a
 * row has more buckets, on more addresses, and what was a slot before is the same one.
 *
 *	slot = bucket of the row (bucket_bits) | row (12 bits) | way (3 bits)
 */
#pragma once

#include "lb.h"
#include "packet.h"

#define NAT_ROWS 4096 /* of the table of NAT: the first of its ROWS */
#define NAT_ROW_BITS 12
#define WAYS 8                  /* slots of a bucket, whose tags share a cache line */
#define OWNER_WAYS 6            /* in these a row's owner makes sessions, in the others any other node */
#define BACKENDS 4096           /* index 0 means "none" */
#define CHOICES 256             /* entries of a service's table of choices, and so backends of a service */
#define NAT_HOPS (BACKENDS + 2) /* next hops: of each backend, and of clients by family; index 0 means "none" */
#define PORT_BITS 15            /* of a slot: the port, which begins at FIRST_PORT */
#define FIRST_PORT 0x8000
#define NAT_PARSED_SIZE 128
#define REST_STATES 16
#define TICK_SHIFT 30 /* a tick is 2^30 ns of CLOCK_MONOTONIC_COARSE, 1.07 s */

/*
 * Of a session: SYN is half-open, and UDP that has no reply yet. BUSY: claimed, the record is not yet written.
 * RESERVED: no session, since another node has one with this endpoint; the tag has no fingerprint, and the record is 0.
 */
enum session_state {
	SESSION_FREE,
	SESSION_SYN,
	SESSION_EST,
	SESSION_FIN,
	SESSION_CLOSED,
	SESSION_BUSY,
	SESSION_RESERVED,
};

enum {
	TAG_CLIENT_FIN = 1,
	TAG_BACKEND_FIN = 2,
	TAG_SYNACK_SEEN = 4,
	TAG_COPIED = 8,             /* another node has a copy */
	TAG_CLOSED_BY_BACKEND = 16, /* first, so that its end is in TIME-WAIT */
	TAG_RESET = 32,
	TAG_IPV6 = 64, /* the record is in sessions6 */
	TAG_UDP = 128,
};

struct nat_conf {
	__be32 last4,
		hosts4; /* of the pool: the last address, and the bits in which its addresses differ; 0: no pool */
	__be32 last6[4];
	__be32 hosts6;         /* in the last word */
	__be32 former4;        /* last address of the pool from which no new session gets one; last4: there is none */
	__be32 former6[4];     /* likewise */
	u8 bucket_bits;        /* of new sessions: a row has 2^bucket_bits buckets for them */
	u8 former_bits;        /* of sessions that began with another number; bucket_bits: there are none */
	u16 table;             /* slot of the table of rows */
	u16 flags;             /* NAT_* */
	u16 hops[2];           /* indexes in nat_hops: to the clients, IPv4 and IPv6; 0: none */
	u16 mss[2];            /* the largest that SYN and SYN-ACK may name, IPv4 and IPv6; 0: any */
	u8 up;                 /* this node takes new sessions */
	u8 forward;            /* FORWARD_BY_*: how a packet reaches the next node */
	s64 rest[REST_STATES]; /* by 2 * state + CLOSED_BY_BACKEND: ticks after which a new session may take the slot */
};

enum {
	NAT_WATCHED = 1, /* changes of tags go to session_events */
	NAT_MOVING = 2,  /* sessions are being copied into other maps: none is made, and none is known to be gone */
};

struct nat_service {
	u8 balance;  /* BALANCE_* */
	u8 affinity; /* AFFINITY_*: what of the client decides with BALANCE_HASH */
	u16 choices; /* entries of its table of choices that are used; 0: no backend takes new sessions */
	u32 pad;
	u64 turn; /* the program counts the new sessions here */
};

/* Round robin and weighted take the choices in turn; hash takes one by the client's hash, least compares the loads. */
enum { BALANCE_HASH, BALANCE_ROUND_ROBIN, BALANCE_LEAST_CONNECTIONS, BALANCE_WEIGHTED };

struct nat_choice {
	u16 backend; /* index */
	u16 weight;
};

struct nat_choices {
	struct nat_choice choice[CHOICES];
};

struct backend {
	__be32 address[4];
	__be16 port;
	u8 family;
	u8 flags; /* always 0 */
	u16 hop;  /* index in nat_hops */
	u16 pad;
	u32 weight;
};

/* What the program counts of a backend's sessions on this node, apart from `backends`: it changes all the time. */
struct backend_load {
	u64 active; /* SYN, EST and FIN */
	u64 chosen; /* new sessions so far */
};

struct nat_hop {
	u8 mac[6];
	u16 vlan;     /* tag to put on frames; 0: none */
	u32 ifindex;  /* of the interface to leave by; 0: the one by which the packet came */
	u8 source[6]; /* that interface's MAC */
	u16 mtu;
	u32 known; /* `mac` is, or once was, the right one */
};

/*
 * The tags of a bucket. A tag changes by compare-and-exchange alone; a free one is 0 but for its stamp:
 *
 *	fingerprint (16 bits, odd) | state (8) | flags (8) | stamp (32): the tick of the last packet
 */
struct session_bucket {
	u64 tag[WAYS];
};

/* What follows the addresses in a session's record. It is written while the tag is BUSY. */
struct session {
	__be16 client_port, vip_port, backend_port, nat_port;
	u8 protocol;
	u8 family;
	u16 backend_index; /* on this node */
	u16 service_slot;
	u8 bucket_bits; /* of nat_conf when it began: with others, a client's packet finds other buckets */
	u8 pad;
	u32 created;     /* tick */
	u16 sums[4];     /* checksum differences: to the backend in IP and above it, to the client in IP and above it */
	u32 client_ack;  /* the last acknowledgment number of the client ... */
	u32 backend_ack; /* ... and of the backend, host order, written once a tick */
	u8 spare[12];    /* 0 */
};

struct session4 {
	__be32 client, vip, backend, nat;
	struct session rest;
};

struct session6 {
	__be32 client[4], vip[4], backend[4], nat[4];
	struct session rest;
	u8 spare[16]; /* 0 */
};

struct session_event {
	u32 slot;
	u32 pad;
	u64 before, after; /* tags */
};

#if NAT
BPF_TABLE_PINNED("array", u32, struct nat_conf, nat_confs, 1, PINS "/nat_confs");
BPF_TABLE_PINNED("array", u32, struct nat_service, nat_services, SLOTS, PINS "/nat_services");
BPF_TABLE_PINNED("array", u32, struct nat_choices, nat_choices, SLOTS, PINS "/nat_choices");
BPF_TABLE_PINNED("array", u32, struct backend, backends, BACKENDS, PINS "/backends");
BPF_TABLE_PINNED("array", u32, struct backend_load, backend_loads, BACKENDS, PINS "/backend_loads");
BPF_TABLE_PINNED("array", u32, struct nat_hop, nat_hops, NAT_HOPS, PINS "/nat_hops");

/* By row: until when (CLOCK_MONOTONIC, ns) other nodes may still hand over its sessions; 0: no longer. */
BPF_TABLE_PINNED("array", u32, u64, nat_pulls, NAT_ROWS, PINS "/nat_pulls");

/* The tick when it was read last, below the low half of jiffies at that time. */
BPF_TABLE_PINNED("array", u32, u64, nat_ticks, 1, PINS "/nat_ticks");

/* A packet between two programs. No program interrupts another on a CPU. */
struct nat_parsed {
	struct packet pkt;
	u32 transport; /* offset of the TCP or UDP header in the frame */
};
_Static_assert(sizeof(struct nat_parsed) <= NAT_PARSED_SIZE, "a parsed packet does not fit into its map");
BPF_TABLE_PINNED("percpu_array", u32, struct nat_parsed, nat_parsed_packets, 1, PINS "/nat_parsed_packets");

/* By slot / WAYS, and by slot. The sizes are those of the pins. */
BPF_TABLE_PINNED("array", u32, struct session_bucket, session_tags, 1, PINS "/session_tags");
BPF_TABLE_PINNED("array", u32, struct session4, sessions4, 1, PINS "/sessions4");
#if NAT6
BPF_TABLE_PINNED("array", u32, struct session6, sessions6, 1, PINS "/sessions6");
#endif

struct events_ring {
	int key;
	u32 leaf;
	void *(*ringbuf_reserve)(u64 size);
	void (*ringbuf_submit)(void *data, u64 flags);
	u32 max_entries;
};
__attribute__((section("maps/ringbuf:" PINS "/session_events"))) struct events_ring session_events = { .max_entries =
													       64 };
#endif
