# SPDX-License-Identifier: Apache-2.0
"""Packets that are walked through the nodes of a cluster in virtual time, by the project's rule of the next hop.

The rule is pure, and most of a walk's questions have been asked before, so its decisions are kept. They are found by
numbers: hashing addresses would take most of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from agent.model import State
from bpf.layout.counter import Counter
from bpf.layout.limits import HOP_MAX
from bpf.reference.pick import Arrival, NodeState, Socket, pick

if TYPE_CHECKING:
    from support.cluster_node import Node

DROP_S = 120.0
Chain = tuple[IPv4Address, ...]


@dataclass(frozen=True, slots=True)
class _Moment:
    """What a walk asks of a node at this moment. Addresses are numbers here."""

    node: Node
    number: int
    boot: int
    alive: bool
    knows: int
    """The number of what the node decides by in every row."""
    chains: list[int]
    """The numbers of its chains, by row."""
    grace: Mapping[int, float]


_Step = tuple[Counter | None, int | None, int, bool]
"""A decision: its event, the next node (None: the walk ends), the hop and whether it is in grace there."""


class PacketWalks:
    """The walks of one model: `begin` at each moment, then any number of `walk`."""

    def __init__(self, nodes: Mapping[IPv4Address, Node], reaches: Callable[[IPv4Address, IPv4Address], bool]) -> None:
        self._nodes, self._reaches = nodes, reaches
        self._now = 0.0
        self._numbers: dict[object, int] = {}
        self._awaited: dict[IPv4Address, frozenset[IPv4Address]] = {}
        self._moments: dict[int, _Moment] = {}
        """Of each node, by the number of its address."""
        self._chains: dict[tuple[Chain, ...], list[int]] = {}
        self._steps: dict[tuple[int | bool, ...], _Step] = {}

    def begin(self, now: float) -> None:
        """Take up what the nodes know at this moment."""
        self._now = now
        self._moments = {}
        for address, node in self._nodes.items():
            doubts = (*node.silent.items(), *node.doubted.items())
            awaited = frozenset(other for other, since in doubts if now < since + DROP_S)
            self._awaited[address] = awaited
            if node.chains not in self._chains:
                self._chains[node.chains] = [self._number(chain) for chain in node.chains]
            knows = self._number((address, node.state, frozenset(node.silent), awaited))
            number, chains = int(address), self._chains[node.chains]
            self._moments[number] = _Moment(node, number, node.boot, node.alive, knows, chains, node.grace)

    def _number(self, of: object) -> int:
        return self._numbers.setdefault(of, len(self._numbers))

    def walk(
        self, entry: Node, row: int, owner: tuple[IPv4Address, int] | None, opens: bool = False
    ) -> tuple[Counter | None, Node | None]:
        """Walk a packet from the router; return what ended it (None: it was lost on its way), and where."""
        now, moments, steps = self._now, self._moments, self._steps
        owner_number, owner_boot = (int(owner[0]), owner[1]) if owner else (None, 0)
        here, hop, in_grace = moments[int(entry.address)], 0, False
        prev = here.number
        while True:
            holds = owner_number == here.number and owner_boot == here.boot
            grace = now < here.grace.get(row, 0.0)
            asked = here.knows, here.chains[row], holds, grace, opens, hop, prev, in_grace
            step = steps.get(asked)
            if step is None:
                step = steps[asked] = self._step(here, row, prev, *asked[2:6], in_grace)
            event, to, hop, in_grace = step
            if to is None:
                return event, here.node
            following = moments.get(to)
            if following is None or not following.alive:
                return None, None
            if not self._reaches(here.node.address, following.node.address):
                return None, None
            prev, here = here.number, following

    def _step(
        self, here: _Moment, row: int, prev: int, holds: bool, grace: bool, opens: bool, hop: int, in_grace: bool
    ) -> _Step:
        """Ask the rule. Raises AssertionError if it forwards too far."""
        arrival = Arrival(opens, hop, IPv4Address(prev) if hop else None, in_grace=in_grace)
        decision = pick(self._state_of(here.node, row, holds, grace), arrival)
        assert decision.to is None or decision.hop <= HOP_MAX
        return decision.event, decision.to and int(decision.to), decision.hop, decision.in_grace

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
