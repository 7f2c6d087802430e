# SPDX-License-Identifier: Apache-2.0
"""A large cluster in virtual time, for claims: real tables, claimants, grace and next-hop rule; modeled is the rest.

Each node learns of a change at its own time, up to `SKEW_S` later. A node's claims follow its rows by up to 2 s, as its
dump of sockets does, and reach each other node at their own time: datagrams are lost and repeated as the channel does
it. A connection stands for flows of its row that one node took. Each tenth of a second a packet of each connection in a
row that has changed, or has left grace, enters by each node of any chain and by some others, and is walked to its end.
A reset breaks the connection if its owner lives; so does a packet that reaches no end once all is quiet.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import numpy as np
from numpy.typing import NDArray

from agent.address import NodeAddress
from agent.channel.transmitter import MAX_REPEAT_S, REPEAT_S
from agent.forwarding.grace import Grace
from agent.model import Candidate, State
from agent.table import algorithm
from agent.table.claims import claimants, claims_of
from agent.table.table import RowNumbers, Table
from bpf.layout.counter import Counter
from bpf.reference.pick import Arrival, NodeState, Socket, pick

TICK_S = 0.1
SKEW_S = 2.0
DUMP_S = 2.0
"""The least time between two dumps of a node's sockets."""
REFRESH_S = 30.0
"""The time between dumps while claims stand."""
SILENT_S = 0.5
LOST_S = 3.0
JOIN_S = 1.0
"""How long a node that joins is a member before it takes new flows: it has no tables yet."""
AWAITED_S = 120.0
CHAIN = 4
RESETS = {Counter.DELIVER_CHAIN_END, Counter.DELIVER_ONLY_NODE, Counter.PASS_NO_MEMBER}
DELIVERED = {Counter.DELIVER_SOCKET}
NONE = np.zeros(0, np.uint32)


@dataclass(frozen=True)
class Rules:
    """What may be switched off or changed, to see that the simulation notices."""

    claims: bool = True
    hash: str = "rendezvous"
    loss: float = 0.1


@dataclass(eq=False)
class Node:
    """One server: its data path, its agent, what it holds."""

    address: IPv4Address
    held: NDArray[np.uint32]
    grace: Grace
    boot: int = 1
    alive: bool = True
    agent: bool = True
    known: dict[IPv4Address, Candidate] = field(default_factory=dict)
    versions: dict[IPv4Address, int] = field(default_factory=dict)
    """Of what it knows of each node."""
    claims: dict[IPv4Address, tuple[int, RowNumbers]] = field(default_factory=dict)
    """Of each node, this one included, with the number of the set."""
    claimed: RowNumbers = field(default_factory=lambda: NONE)
    dumped_at: float = 0.0
    dump_at: float = float("inf")
    silent: dict[IPv4Address, float] = field(default_factory=dict)
    table: Table | None = None
    chains: NDArray[np.int64] | None = None
    """Addresses as numbers, 0 after the last: (rows, places)."""
    stale: bool = True


class ClaimModel:
    """All nodes, their connections and the events to come."""

    def __init__(self, size: int, seed: int, rows: int = 256, rules: Rules = Rules()) -> None:
        self.random, self.rules, self.rows = random.Random(seed), rules, rows
        self.now = 1000.0
        self.nodes: dict[IPv4Address, Node] = {}
        self.opened = self.broken = self.walks = self.full = self.claimed = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = itertools.count()
        self._sets = itertools.count(1)
        self._tables: dict[tuple[Candidate, ...], Table] = {}
        self._last: Table | None = None
        self._dirty: set[int] = set()
        self.breaks: list[str] = []
        for number in range(size):
            self._create(address(number))
        self.present = {a: Candidate(a, 100, 100, State.UP) for a in self.nodes}
        """What each node says of itself."""
        for node in self.nodes.values():
            node.known = dict(self.present)
        self._tick()
        for node in self.nodes.values():
            node.grace = self._no_grace()

    # Events of a story

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now += TICK_S
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            for node in self.nodes.values():
                if node.alive and node.agent and node.dump_at <= self.now:
                    self._dump(node)
            self._tick()

    def open(self, flows: int, life_s: Callable[[], float] = lambda: float("inf"), entries: int = 1) -> None:
        """Open connections in each row, by so many nodes of the router's choice."""
        each = max(1, flows // (self.rows * entries))
        able = self._entries()
        for row in range(self.rows):
            for entry in self.random.choices(able, k=entries):
                event, owner = self._walk(entry, row, None, opens=True)
                if owner is None or event in RESETS:
                    continue
                self.opened += each
                owner.held[row] += each
                life = life_s()
                if life < float("inf"):
                    self.later(life, lambda o=owner, b=owner.boot, r=row: self._end(o, b, r, each))

    def join(self, node_address: IPv4Address, boot: int = 1) -> None:
        """Have a node come, with no connections: it knows the others, and asks them for their claims."""
        node = self._create(node_address, boot)
        others = [n for n in self.nodes.values() if n is not node and n.alive]
        # Those that are dead by then have never answered it.
        node.known = {a: one for a, one in self.present.items() if self.nodes[a].alive}
        node.alive = False  # until its first tables

        def start() -> None:
            node.alive = True
            self.change(Candidate(node_address, 100, 0, State.UP))
            self.later(JOIN_S, lambda: self._takes(node))

        self.later(0.5, start)
        for other in others:
            self._send(other, node)

    def _takes(self, node: Node) -> None:
        if self.nodes.get(node.address) is node and node.alive and self.present[node.address].state is State.UP:
            self.change(Candidate(node.address, 100, 100, State.UP))

    def change(self, candidate: Candidate) -> None:
        """Have a node say another state; `left` removes it."""
        self.present[candidate.address], version = candidate, next(self._sets)
        if candidate.state is State.LEFT:
            del self.present[candidate.address]
        for node in self.nodes.values():
            delay = 0.0 if node.address == candidate.address else self.random.uniform(0, SKEW_S)
            self.later(delay, lambda n=node: self._learn(n, candidate, version))

    def drain(self, node_address: IPv4Address) -> None:
        """Have a node take no new flows."""
        self.change(Candidate(node_address, 100, 0, State.DRAINING))

    def undrain(self, node_address: IPv4Address) -> None:
        """Have a node take new flows again."""
        self.change(Candidate(node_address, 100, 100, State.UP))

    def leave(self, node_address: IPv4Address) -> None:
        """Take a node away: its connections end with it."""
        self.nodes[node_address].alive = False
        self.change(Candidate(node_address, 100, 0, State.LEFT))

    def crash(self, node_address: IPv4Address) -> None:
        """Take a node's power away: it falls silent, then owns no row, and is forgotten after 10 min."""
        gone = self.nodes[node_address]
        gone.alive = gone.agent = False
        lost = Candidate(node_address, 100, 0, State.LOST)
        for node in self.nodes.values():
            delay = self.random.uniform(SILENT_S / 2, SILENT_S)
            self.later(delay, lambda n=node: n.silent.setdefault(node_address, self.now))
        self.later(LOST_S, lambda: self.change(lost) if self.nodes.get(node_address) is gone else None)
        forgotten = Candidate(node_address, 100, 0, State.LEFT)
        self.later(600, lambda: self.change(forgotten) if self.nodes.get(node_address) is gone else None)
        self._dirty |= set(range(self.rows))

    def restart_agent(self, node_address: IPv4Address, down_s: float) -> None:
        """Kill a node's agent and start it later: the kernel's rows stay, claims included; sets are sent again."""
        node = self.nodes[node_address]
        node.agent = False

        def start() -> None:
            if self.nodes.get(node_address) is node and node.alive:
                node.agent, node.dump_at, node.stale = True, self.now + self.random.uniform(0, 1), True

        self.later(down_s, start)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._events, (self.now + seconds, next(self._serial), act))

    # The agents

    def _create(self, node_address: IPv4Address, boot: int = 1) -> Node:
        node = Node(node_address, np.zeros(self.rows, np.uint32), self._no_grace(), boot)
        self.nodes[node_address] = node
        return node

    def _no_grace(self) -> Grace:
        return Grace.of(np.zeros(self.rows, np.uint64))

    def _learn(self, node: Node, candidate: Candidate, version: int) -> None:
        if not node.alive or version < node.versions.get(candidate.address, 0):
            return
        if not node.agent:
            self.later(0.5, lambda: self._learn(node, candidate, version))
            return
        node.versions[candidate.address] = version
        if candidate.state is State.LOST and candidate.address not in node.known:
            return
        if candidate.state is State.LEFT:
            node.known.pop(candidate.address, None)
            node.claims.pop(candidate.address, None)
            node.silent.pop(candidate.address, None)
        else:
            if candidate.state is State.UP and candidate.address in node.silent:
                node.silent.pop(candidate.address)
                node.claims.pop(candidate.address, None)
            node.known[candidate.address] = candidate
        node.stale = True

    def _dump(self, node: Node) -> None:
        node.dumped_at, node.dump_at = self.now, float("inf")
        chains = node.chains
        if not self.rules.claims or chains is None:
            return
        held = np.flatnonzero(node.held).astype(np.uint32)
        rows = claims_of(held, chains, CHAIN, int(node.address))
        if len(rows):
            node.dump_at = self.now + REFRESH_S
        if np.array_equal(rows, node.claimed):
            return
        node.claimed, node.stale = rows, True
        self.claimed += len(rows)
        node.claims[node.address] = next(self._sets), rows
        for other in self.nodes.values():
            if other is not node:
                self._send(node, other)

    def _send(self, node: Node, other: Node) -> None:
        """Send a node's set of claims; it arrives after as many repeats as datagrams are lost."""
        if node.address not in node.claims:
            return
        number, rows = node.claims[node.address]
        delay, wait = self.random.uniform(0.0005, 0.02), REPEAT_S
        while self.random.random() < self.rules.loss:
            delay, wait = delay + wait * self.random.uniform(0.75, 1.25), min(MAX_REPEAT_S, 2 * wait)
        self.later(delay, lambda: self._receive(other, node, number, rows))

    def _receive(self, node: Node, sender: Node, number: int, rows: RowNumbers) -> None:
        if self.nodes.get(node.address) is not node or self.nodes.get(sender.address) is not sender:
            return
        if not node.agent:
            self.later(0.5, lambda: self._receive(node, sender, number, rows))
        elif node.claims.get(sender.address, (0, NONE))[0] < number:
            node.claims[sender.address] = number, rows
            node.stale = True

    def _table(self, known: tuple[Candidate, ...]) -> Table:
        if known not in self._tables:
            before = self._last if self._last is not None and self._last.ranking else None
            self._last = algorithm.build(1, self.rules.hash, known, self.rows, CHAIN, before)
            if len(self._tables) > 64:
                self._tables.clear()
            self._tables[known] = self._last
        return self._tables[known]

    def _chains(self, node: Node, known: tuple[Candidate, ...]) -> NDArray[np.int64]:
        table = self._table(known)
        chains = np.zeros((self.rows, 8), np.int64)
        numbers = np.array([*map(int, table.members), 0], np.int64)
        chains[:, :CHAIN] = numbers[table.places]
        if node.claims or table.lost:
            claims = {one: rows for one, (_, rows) in node.claims.items()}
            found = claimants(table, known, claims)
            rows, places, members = found.placed
            chains[rows, places] = numbers[members]
            self.full = max(self.full, found.overfull)
        return chains

    def _apply(self, node: Node) -> NDArray[np.intp]:
        """Bring a node's rows to what it knows; return those that changed."""
        node.stale = False
        known = tuple(sorted(node.known.values(), key=lambda one: int(one.address)))
        table, chains = self._table(known), self._chains(node, known)
        changed = np.ones(self.rows, np.bool_) if node.chains is None else (chains != node.chains).any(axis=1)
        if changed.any():
            node.grace = node.grace.after(changed, self.now)
            node.dump_at = min(node.dump_at, max(self.now + 0.05, node.dumped_at + DUMP_S))
        node.table, node.chains = table, chains
        return np.flatnonzero(changed)

    # Packets

    def _end(self, owner: Node, boot: int, row: int, flows: int) -> None:
        if owner.boot == boot and owner.held[row] >= flows:
            owner.held[row] -= flows

    def _entries(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.alive]

    def _walk(
        self, entry: Node, row: int, holder: Node | None, opens: bool = False
    ) -> tuple[Counter | None, Node | None]:
        """Walk a packet from the router; return what ended it (None: it was lost on its way), and where."""
        node, arrival = entry, Arrival[int](opens)
        self.walks += 1
        while True:
            assert node.chains is not None
            chain = [one for one in node.chains[row].tolist() if one]
            here = NodeState(
                int(node.address),
                chain,
                Socket.CONNECTION if node is holder else Socket.NONE,
                up=True,
                grace=self.now * 1e9 < node.grace.until[row],
                silent=[int(one) for one in node.silent] if node.silent else (),
                awaited=[int(a) for a, at in node.silent.items() if self.now < at + AWAITED_S] if node.silent else (),
                unmetered=2,
            )
            decision = pick(here, arrival)
            if decision.to is None:
                return decision.event, node
            following = self.nodes.get(address_of(decision.to))
            if following is None or not following.alive:
                return None, None
            node, arrival = following, Arrival(opens, decision.hop, int(node.address), in_grace=decision.in_grace)

    def _tick(self) -> None:
        changed, self._dirty = self._dirty, set()
        before_ns, now_ns = (self.now - TICK_S) * 1e9, self.now * 1e9
        for node in self.nodes.values():
            if not node.agent:
                continue
            if node.stale and (node.alive or node.chains is None):
                changed |= set(self._apply(node).tolist())
            until = node.grace.until
            changed |= set(np.flatnonzero((until > before_ns) & (until <= now_ns)).tolist())
        if changed:
            self._check(changed)

    def _check(self, rows: set[int], settled: bool = False) -> None:
        entries = self._entries()
        alive = {int(node.address): node for node in entries}
        for row in rows:
            holders = [node for node in entries if node.held[row]]
            if not holders:
                continue
            named = {one for node in entries for one in node.chains[row].tolist() if one in alive}
            some = {*named, *(int(one.address) for one in self.random.sample(entries, min(3, len(entries))))}
            for holder in holders:
                for entry in sorted(some):
                    event, end = self._walk(alive[entry], row, holder)
                    if (event in RESETS and end is not None) or (settled and event not in DELIVERED):
                        self.broken += int(holder.held[row])
                        self.breaks.append(
                            f"{self.now:.1f}: row {row} of {holder.address}: {event and event.name} at "
                            f"{end and end.address}, entered at {alive[entry].address}"
                        )
                        holder.held[row] = 0
                        break

    def settle(self) -> None:
        """Let all become quiet; then each packet must reach its connection."""
        self.run(45)
        self._check(set(range(self.rows)), settled=True)

    @property
    def held(self) -> int:
        """How many connections live."""
        return sum(int(node.held.sum()) for node in self._entries())


def address(number: int) -> IPv4Address:
    """Return the address of a node by its number."""
    return NodeAddress(IPv4Address("10.0.0.0") + 10 + number)


def address_of(number: int) -> IPv4Address:
    """Return an address given as a number."""
    return NodeAddress(IPv4Address(number))
