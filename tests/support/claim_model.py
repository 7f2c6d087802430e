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
from dataclasses import dataclass
from ipaddress import IPv4Address

import numpy as np
from numpy.typing import NDArray
from support.claim_node import NONE, Node, Tokens
from support.claim_rows import CHAIN, RowCache
from support.claim_walk import Walker

from agent.address import NodeAddress
from agent.channel.transmitter import MAX_REPEAT_S, REPEAT_S
from agent.forwarding.grace import Grace
from agent.model import Candidate, State
from agent.table.claims import claims_of
from agent.table.table import RowNumbers
from bpf.layout.counter import Counter

TICK_S = 0.1
SKEW_S = 2.0
DUMP_S = 2.0
"""The least time between two dumps of a node's sockets."""
REFRESH_S = 30.0
"""The time between dumps while there are claims."""
SILENT_S = 0.5
LOST_S = 3.0
JOIN_S = 1.0
"""How long a node that joins is a member before it takes new flows: it has no tables yet."""
RESETS = {Counter.DELIVER_CHAIN_END, Counter.DELIVER_ONLY_NODE, Counter.PASS_NO_MEMBER}
DELIVERED = {Counter.DELIVER_SOCKET}


@dataclass(frozen=True)
class Rules:
    """What may be switched off or changed, to see that the simulation notices."""

    claims: bool = True
    hash: str = "rendezvous"
    loss: float = 0.1


class ClaimModel:
    """All nodes, their connections and the events to come."""

    def __init__(self, size: int, seed: int, rows: int = 256, rules: Rules = Rules()) -> None:
        self.random, self.rules, self.rows = random.Random(seed), rules, rows
        self.now = 1000.0
        self.nodes: dict[IPv4Address, Node] = {}
        self._by_number: dict[int, Node] = {}
        self.opened = self.broken = self.claimed = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = itertools.count()
        self._sets = itertools.count(1)
        self.row_cache = RowCache(rules.hash, rows)
        self.walker = Walker(self._by_number)
        self._tokens = Tokens(self.random)
        self._holders: list[dict[Node, None]] = [{} for _ in range(rows)]
        """Nodes that have had connections in each row."""
        self._dirty: set[int] = set()
        self.breaks: list[str] = []
        for number in range(size):
            self._create(address(number))
        self.present = {a: Candidate(a, 100, 100, State.UP) for a in self.nodes}
        """What each node publishes of itself."""
        for node in self.nodes.values():
            for one in self.present.values():
                node.know(self._tokens, one.address, one)
        self._tick()
        for node in self.nodes.values():
            self._set_grace(node, self._no_grace())

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
                event, owner = self.walker.walk(entry, row, None, self.now, opens=True)
                if owner is None or event in RESETS:
                    continue
                self.opened += each
                owner.held[row] += each
                self._holders[row][owner] = None
                life = life_s()
                if life < float("inf"):
                    self.later(life, lambda o=owner, b=owner.boot, r=row: self._end(o, b, r, each))

    def join(self, node_address: IPv4Address, boot: int = 1) -> None:
        """Have a node come, with no connections: it knows the others, and asks them for their claims."""
        node = self._create(node_address, boot)
        others = [n for n in self.nodes.values() if n is not node and n.alive]
        # Those that are dead by then have never answered it.
        for a, one in self.present.items():
            if self.nodes[a].alive:
                node.know(self._tokens, a, one)
        node.alive = False  # until its first tables

        def start() -> None:
            node.alive = True
            self.change(Candidate(node_address, 100, 0, State.UP))
            self.later(JOIN_S, lambda: self._takes(node))

        self.later(0.5, start)
        for other in others:
            self._send(other, [node])

    def _takes(self, node: Node) -> None:
        if self.nodes.get(node.address) is node and node.alive and self.present[node.address].state is State.UP:
            self.change(Candidate(node.address, 100, 100, State.UP))

    def change(self, candidate: Candidate) -> None:
        """Have a node publish another state; `left` removes it."""
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
        node = Node(node_address, int(node_address), np.zeros(self.rows, np.uint32), self._no_grace(), boot)
        self._set_grace(node, node.grace)
        self.nodes[node_address] = self._by_number[node.number] = node
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
            node.know(self._tokens, candidate.address, None)
            node.know_claims(self._tokens, candidate.address, None)
            node.silent.pop(candidate.address, None)
        else:
            if candidate.state is State.UP and candidate.address in node.silent:
                node.silent.pop(candidate.address)
                node.know_claims(self._tokens, candidate.address, None)
            node.know(self._tokens, candidate.address, candidate)

    def _dump(self, node: Node) -> None:
        node.dumped_at, node.dump_at = self.now, float("inf")
        if not self.rules.claims or node.rows is None:
            return
        held = np.flatnonzero(node.held).astype(np.uint32)
        rows = claims_of(held, node.rows.chains, CHAIN, int(node.address))
        if len(rows):
            node.dump_at = self.now + REFRESH_S
        if np.array_equal(rows, node.claimed):
            return
        node.claimed = rows
        self.claimed += len(rows)
        node.know_claims(self._tokens, node.address, (next(self._sets), rows))
        self._send(node, [other for other in self.nodes.values() if other is not node])

    def _send(self, node: Node, others: list[Node]) -> None:
        """Send a node's set of claims; it arrives after as many repeats as datagrams are lost."""
        if node.address not in node.claims:
            return
        claims = node.claims[node.address]
        arrivals: dict[int, list[Node]] = {}
        for other in others:
            delay, wait = self.random.uniform(0.0005, 0.02), REPEAT_S
            while self.random.random() < self.rules.loss:
                delay, wait = delay + wait * self.random.uniform(0.75, 1.25), min(MAX_REPEAT_S, 2 * wait)
            arrivals.setdefault(int(delay / TICK_S), []).append(other)
        for ticks, some in arrivals.items():
            self.later((ticks + 0.5) * TICK_S, lambda some=some: [self._receive(one, node, claims) for one in some])

    def _receive(self, node: Node, sender: Node, claims: tuple[int, RowNumbers]) -> None:
        if self.nodes.get(node.address) is not node or self.nodes.get(sender.address) is not sender:
            return
        if not node.agent:
            self.later(0.5, lambda: self._receive(node, sender, claims))
        elif node.claims.get(sender.address, (0, NONE))[0] < claims[0]:
            node.know_claims(self._tokens, sender.address, claims)

    def _apply(self, node: Node) -> NDArray[np.intp]:
        """Bring a node's rows to what it knows; return those that changed."""
        node.stale = False
        before, node.rows = node.rows, self.row_cache.rows_of(node)
        changed = self.row_cache.changed(before, node.rows)
        if changed.any():
            self._set_grace(node, node.grace.after(changed, self.now))
            node.dump_at = min(node.dump_at, max(self.now + 0.05, node.dumped_at + DUMP_S))
        return np.flatnonzero(changed)

    def _set_grace(self, node: Node, grace: Grace) -> None:
        node.grace, node.until = grace, grace.until.tolist()
        node.grace_ends = min((one for one in grace.deadlines.tolist() if one > self.now * 1e9), default=float("inf"))

    # Packets

    def _end(self, owner: Node, boot: int, row: int, flows: int) -> None:
        if owner.boot == boot and owner.held[row] >= flows:
            owner.held[row] -= flows

    def _entries(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.alive]

    def _tick(self) -> None:
        changed, self._dirty = self._dirty, set()
        before_ns, now_ns = (self.now - TICK_S) * 1e9, self.now * 1e9
        for node in self.nodes.values():
            if not node.agent:
                continue
            if node.stale and (node.alive or node.rows is None):
                changed.update(self._apply(node).tolist())
            if node.grace_ends <= now_ns:
                ends = node.grace.deadlines
                changed.update(node.grace.rows[(ends > before_ns) & (ends <= now_ns)].tolist())
                self._set_grace(node, node.grace)
        if changed:
            self._check(changed)

    def _check(self, rows: set[int], settled: bool = False) -> None:
        entries = self._entries()
        alive = {node.number: node for node in entries}
        distinct = list(dict.fromkeys(node.rows for node in entries if node.rows is not None))
        for row in rows:
            holders = [one for one in self._holders[row] if one.held[row] and alive.get(one.number) is one]
            if not holders:
                continue
            named = {one for some in distinct for one in some.chain(row) if one in alive}
            some = {*named, *(one.number for one in self.random.sample(entries, min(3, len(entries))))}
            for holder in holders:
                for entry in sorted(some):
                    event, end = self.walker.walk(alive[entry], row, holder, self.now)
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
