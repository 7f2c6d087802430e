# SPDX-License-Identifier: Apache-2.0
"""A cluster that does NAT, in virtual time: tables, channels, exchanges and stores; a model of the data path.

    client ── any node ── down the chain ── the node with the session

A packet enters at any node, goes to the owner by that node's table, and from node to node down each one's own chain,
until one has the session. A SYN makes a session at the owner, in the first ways of its buckets; while the owner pulls
the row, and at any other node, in the last ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import numpy as np
from support.channel_network import Datagram, Network, address, state
from support.session_arrays import POOLS, Arrays

from agent.channel.event import ItemReceived, SessionBegun
from agent.handover.exchange import Exchange
from agent.handover.item import Codec, Origin, Slots
from agent.handover.row_move import Chains
from agent.model import Candidate, State
from agent.table.algorithm import build
from bpf.layout.nat import NAT_ROWS, bucket_bits
from bpf.layout.session import OWNER_WAYS, WAYS
from bpf.maps.session_copy import SessionCopy
from bpf.reference.session import place_of

CHAIN = 4
MAX_HOPS = 8
SLICE_S = 0.004
SWEEP_S = 0.25
SESSIONS = 1 << 19


@dataclass(eq=False)
class Node:
    """One node: its sessions, its chains, and its part in the hand-overs."""

    number: int
    arrays: Arrays
    exchange: Exchange
    pulls: np.ndarray
    numbers: tuple[int, ...]
    """The numbers of sessions that it serves; new sessions begin with the first one."""
    pending: list[tuple[int, bytes]] = field(default_factory=list)
    alive: bool = True

    @property
    def chains(self) -> Chains | None:
        return self.exchange.chains


@dataclass(frozen=True)
class Flow:
    """A client's connection, and the slot that its session got."""

    client: int
    hash: int
    slot: int


def codec(numbers: Iterable[int]) -> Codec:
    return Codec(Slots(NAT_ROWS, {4: [Origin(POOLS[4], number) for number in sorted(numbers)]}))


class Cluster:
    """The nodes, with `share` of all datagrams lost between their agents; without `hands_over` no agent sends any.
    `numbers` are those of sessions that nodes serve (`Node.numbers`)."""

    def __init__(
        self, nodes: int, seed: int, *, share: float = 0.0, hands_over: bool = True,
        numbers: tuple[int, ...] = (SESSIONS,),
    ) -> None:  # fmt: skip
        self.rng = random.Random(seed)
        self.network = Network(self._fate, keep_sent=False)
        self.share, self.hands_over = share, hands_over
        self.nodes: dict[int, Node] = {}
        self.flows: list[Flow] = []
        self.refused = 0
        self._tasks: list[tuple[float, Callable[[], None]]] = []
        self._swept_at = 0.0
        for number in range(nodes):
            self.start(number, numbers)
        self.meet()
        self.change(range(nodes), skew_s=0.0)
        self.run(1.0)

    def _fate(self, datagram: Datagram) -> list[float]:
        return [] if self.rng.random() < self.share else [self.rng.uniform(0.0002, 0.001)]

    # Nodes and tables

    def start(self, number: int, numbers: tuple[int, ...] = (SESSIONS,)) -> None:
        """Start a node, after a boot: it has no sessions and no chains."""
        channel = self.network.start(number)
        self._serve(number, Arrays(9 + number, max(numbers)), numbers)
        for known in self.network.channels.values():
            known.follow(set(self.network.channels), self.network.now)
        channel.publish(state(), self.network.now)

    def restart(self, number: int, numbers: tuple[int, ...]) -> None:
        """Have the next agent of a node serve these numbers. Its data path goes on, and so do the chains."""
        node = self.node(number)
        chains, arrays = node.chains, node.arrays
        if max(numbers) > len(arrays.tags):
            arrays = Arrays(9 + number, max(numbers))
            SessionCopy(node.arrays.map, arrays.map, numbers).follow()
        self._serve(number, arrays, numbers)
        assert chains is not None
        exchange = self.node(number).exchange
        exchange.begin(chains, self.nodes.keys() - {node.number}, self.network.now)
        exchange.finish()

    def _serve(self, number: int, arrays: Arrays, numbers: tuple[int, ...]) -> None:
        own, pulls = address(number), np.zeros(NAT_ROWS, np.uint64)
        channel = self.network.channels[own]
        arrays.serve(sorted(numbers))

        def stream(node: int, items: Iterable[bytes]) -> None:
            if self.hands_over:
                channel.stream(IPv4Address(node), items)

        exchange = Exchange(int(own), arrays.store, codec(numbers), pulls, stream, self.tick)
        self.nodes[int(own)] = Node(int(own), arrays, exchange, pulls, numbers)

    def node(self, number: int) -> Node:
        return self.nodes[int(address(number))]

    def give(self, number: int, sessions: int) -> None:
        """Have new sessions of a node begin with one of the numbers that it serves."""
        node = self.node(number)
        node.numbers = (sessions, *(one for one in node.numbers if one != sessions))

    def meet(self, each: Callable[[], None] = lambda: None) -> None:
        """Let time pass until each node knows the state of each other: only then it is in anybody's table."""
        while any(len(one.states) < len(self.nodes) - 1 for one in self.network.channels.values()):
            self.run(0.1, each)

    def stop(self, number: int) -> None:
        """End a node: its sessions are gone."""
        own = address(number)
        self.nodes.pop(int(own)).alive = False
        self.network.stop(number)
        for known in self.network.channels.values():
            known.follow(set(self.network.channels), self.network.now)

    def change(self, owners: Iterable[int], places: Iterable[int] = (), skew_s: float = 0.4) -> None:
        """Give all nodes the table in which `owners` own rows and `places` have later places only, each at its own
        time within `skew_s`, those without a table first."""
        owners, places = set(owners), set(places)
        candidates = tuple(
            Candidate(address(n), 100, 100 if n in owners else 0, State.UP if n in owners else State.DRAINING)
            for n in sorted(owners | places)
        )
        table = build(1, "rendezvous", candidates, NAT_ROWS, CHAIN)
        numbers = np.array([*(int(one) for one in table.members), 0], np.uint32)
        chains = numbers[table.places]
        for node in list(self.nodes.values()):
            delay = self.rng.uniform(0, skew_s) if node.chains is not None else 0.0
            self.at(self.network.now + delay, lambda node=node: self._use(node, chains))

    def _use(self, node: Node, chains: Chains) -> None:
        """Write chains, as the agent does: the swap takes a moment, in which flows go on by the chains before."""
        if node.alive:
            node.exchange.begin(chains, self.nodes.keys() - {node.number}, self.network.now)
            delay = self.rng.uniform(0.005, 0.05) if node.chains is not None else 0.0
            self.at(self.network.now + delay, lambda: node.alive and node.exchange.finish())

    # Time

    def tick(self) -> int:
        return int(self.network.now / 1.0737)

    def at(self, when: float, task: Callable[[], object]) -> None:
        self._tasks.append((when, task))  # type: ignore[arg-type]

    def run(self, seconds: float, each: Callable[[], None] = lambda: None, slice_s: float = SLICE_S) -> None:
        """Let time pass; call `each` in each slice of it."""
        until = self.network.now + seconds
        while self.network.now < until:
            self.network.run(slice_s)
            due = [task for when, task in self._tasks if when <= self.network.now]
            self._tasks = [one for one in self._tasks if one[0] > self.network.now]
            for task in due:
                task()
            self._deliver()
            each()

    def _deliver(self) -> None:
        events, self.network.events = self.network.events, []
        arrived: dict[tuple[int, int], list[bytes]] = {}
        for at, event in events:
            if int(at) not in self.nodes:
                continue
            if isinstance(event, ItemReceived):
                arrived.setdefault((int(at), int(event.address)), []).append(event.payload)
            elif isinstance(event, SessionBegun):
                self.nodes[int(at)].exchange.forget(int(event.address))
        for (at_number, source), payloads in arrived.items():
            self.nodes[at_number].exchange.receive(source, payloads, self.network.now)
        if self.network.now - self._swept_at >= SWEEP_S:
            self._swept_at = self.network.now
            for node in self.nodes.values():
                channel = self.network.channels[IPv4Address(node.number)]
                node.exchange.await_answers(self.network.now)
                if self.hands_over:
                    node.exchange.sweep([n for n in self.nodes if channel.is_idle(IPv4Address(n)) and n != node.number])

    # Packets

    def open(self, count: int) -> None:
        """Open connections, each by a SYN at any node."""
        for _ in range(count):
            client, flow_hash = len(self.flows) + self.refused + 1, self.rng.getrandbits(32)
            slot = self._walk(client, flow_hash, syn=True)
            if slot is None:
                self.refused += 1
            else:
                self.flows.append(Flow(client, flow_hash, slot))

    def lost(self) -> int:
        """Return of how many connections no node that a packet reaches has the session."""
        return sum(self._walk(flow.client, flow.hash, syn=False) != flow.slot for flow in self.flows)

    def use_some(self, count: int) -> None:
        """Let packets of some connections pass: their sessions get new stamps."""
        for flow in self.rng.sample(self.flows, min(count, len(self.flows))):
            self._walk(flow.client, flow.hash, syn=False)

    def copies(self) -> int:
        """Return how many sessions all nodes have together."""
        return sum(int((node.arrays.tags >> np.uint64(32) != 0).sum()) for node in self.nodes.values())

    def clashes(self) -> int:
        """Return how many slots have sessions of several clients, one at each of several nodes."""
        clients: dict[int, set[int]] = {}
        for node in self.nodes.values():
            slots = node.arrays.store.used(np.ones(NAT_ROWS, np.bool_))
            for records in node.arrays.store.read(slots, self.tick()):
                for slot, client in zip(records["slot"].tolist(), records["client"].tolist(), strict=True):
                    clients.setdefault(slot, set()).add(int.from_bytes(bytes(client), "big"))
        return sum(len(some) > 1 for some in clients.values())

    def _walk(self, client: int, flow_hash: int, *, syn: bool) -> int | None:
        row, node, hop = flow_hash & (NAT_ROWS - 1), self._ingress(), 0
        while hop <= MAX_HOPS:
            assert node.chains is not None
            chain = [one for one in node.chains[row].tolist() if one in self.nodes]
            if hop or chain[0] == node.number:
                slot = self._find(node, client, flow_hash, row)
                if slot is None and syn:
                    slot = self._create(node, client, flow_hash, row, chain[0] == node.number)
                if slot is not None:
                    return slot
                hop = max(1, hop)
            following = [place for place, one in enumerate(chain) if place >= hop and one != node.number]
            if not following:
                return None
            node, hop = self.nodes[chain[following[0]]], max(following[0], hop) + 1
        return None

    def _ingress(self) -> Node:
        return self.rng.choice([node for node in self.nodes.values() if node.chains is not None])

    def _find(self, node: Node, client: int, flow_hash: int, row: int) -> int | None:
        for number in node.numbers:
            place = place_of(flow_hash, row, bucket_bits(number))
            for slot in (bucket * WAYS + way for bucket in place.buckets for way in range(WAYS)):
                tag = int(node.arrays.tags[slot])
                if tag >> 48 == place.fingerprint and int(node.arrays.map.sessions4["client"][slot]) == client:
                    node.arrays.tags[slot] = tag & ~0xFFFF_FFFF | self.tick()
                    return slot
        return None

    def _create(self, node: Node, client: int, flow_hash: int, row: int, is_owner: bool) -> int | None:
        place = place_of(flow_hash, row, bucket_bits(node.numbers[0]))
        pulls = self.hands_over and node.pulls[row] > self.network.now * 1e9
        ways = range(OWNER_WAYS) if is_owner and not pulls else range(OWNER_WAYS, WAYS)
        if not is_owner and not pulls:  # not the way that the next owner takes first
            ways = ways[::-1]
        free = [
            b * WAYS + way
            for way in ways
            for b in place.buckets
            if not node.arrays.tags[b * WAYS + way] >> np.uint64(32)
        ]
        if not free:
            return None
        node.arrays.open(free[0], place.fingerprint, IPv4Address(client), node.numbers[0], self.tick())
        return free[0]
