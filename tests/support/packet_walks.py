# SPDX-License-Identifier: Apache-2.0
"""Packets that are walked through the nodes of a cluster in virtual time, by the project's rule of the next hop.

The rule is pure, and most of a walk's questions have been asked before, so its decisions are kept. They are found by
numbers: hashing addresses would take most of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from agent.model import State
from bpf.layout.counter import Counter
from bpf.layout.limits import HOP_MAX
from bpf.reference.pick import Arrival, Decision, NodeState, Socket, pick

if TYPE_CHECKING:
    from support.cluster_model import Node

DROP_S = 120.0
Chain = tuple[IPv4Address, ...]


class PacketWalks:
    """The walks of one model: `begin` at each moment, then any number of `walk`."""

    def __init__(self, nodes: Mapping[IPv4Address, Node], reaches: Callable[[IPv4Address, IPv4Address], bool]) -> None:
        self._nodes, self._reaches = nodes, reaches
        self._now = 0.0
        self._numbers: dict[object, int] = {}
        self._awaited: dict[IPv4Address, frozenset[IPv4Address]] = {}
        self._knows: dict[IPv4Address, int] = {}
        """The number of what a node decides by in every row."""
        self._rows: dict[IPv4Address, list[int]] = {}
        """The numbers of a node's chains."""
        self._chains: dict[tuple[Chain, ...], list[int]] = {}
        self._decisions: dict[tuple[int | bool, ...], Decision[IPv4Address]] = {}

    def begin(self, now: float) -> None:
        """Take up what the nodes know at this moment."""
        self._now = now
        for address, node in self._nodes.items():
            doubts = (*node.silent.items(), *node.doubted.items())
            awaited = frozenset(other for other, since in doubts if now < since + DROP_S)
            self._awaited[address] = awaited
            known = address, node.state, frozenset(node.silent), awaited
            if node.chains not in self._chains:
                self._chains[node.chains] = [self._number(chain) for chain in node.chains]
            self._knows[address] = self._number(known)
            self._rows[address] = self._chains[node.chains]

    def _number(self, of: object) -> int:
        return self._numbers.setdefault(of, len(self._numbers))

    def walk(
        self, entry: Node, row: int, owner: tuple[IPv4Address, int] | None, opens: bool = False
    ) -> tuple[Counter | None, Node | None]:
        """Walk a packet from the router; return what ended it (None: it was lost on its way), and where."""
        node, hop, prev, in_grace = entry, 0, entry.address, False
        while True:
            address = node.address
            holds, grace = owner == (address, node.boot), self._now < node.grace.get(row, 0.0)
            asked = (
                self._knows[address], self._rows[address][row], holds, grace, opens, hop, int(prev), in_grace
            )  # fmt: skip
            decision = self._decisions.get(asked)
            if decision is None:
                arrival = Arrival(opens, hop, prev if hop else None, in_grace=in_grace)
                decision = self._decisions[asked] = pick(self._state_of(node, row, holds, grace), arrival)
            if decision.to is None:
                return decision.event, node
            following = self._nodes.get(decision.to)
            if following is None or not following.alive or not self._reaches(address, decision.to):
                return None, None
            assert decision.hop <= HOP_MAX
            node, hop, prev, in_grace = following, decision.hop, address, decision.in_grace

    def _state_of(self, node: Node, row: int, holds: bool, grace: bool) -> NodeState[IPv4Address]:
        return NodeState(
            node.address,
            node.chains[row],
            Socket.CONNECTION if holds else Socket.NONE,
            up=node.state is State.UP,
            grace=grace,
            silent=frozenset(node.silent),
            awaited=self._awaited[node.address],
        )
