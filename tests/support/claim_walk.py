# SPDX-License-Identifier: Apache-2.0
"""A packet's walk through the cluster of the simulation of claims: from the router, by the rule of each node."""

from __future__ import annotations

from collections.abc import Mapping

from support.claim_node import Node

from bpf.layout.counter import Counter
from bpf.reference.pick import Arrival, Decision, NodeState, Socket, pick

AWAITED_S = 120.0
MAX_DECISIONS = 200_000


class Walker:
    """Walks packets among `nodes`, by number. Equal questions at a node are asked once."""

    def __init__(self, nodes: Mapping[int, Node]) -> None:
        self._nodes = nodes
        self.walks = 0
        self._decisions: dict[tuple[object, ...], Decision[int]] = {}

    def walk(
        self, entry: Node, row: int, holder: Node | None, now: float, opens: bool = False
    ) -> tuple[Counter | None, Node | None]:
        """Walk a packet from the router; return what ended it (None: it was lost on its way), and where."""
        node, hop, prev, in_grace, now_ns = entry, 0, 0, False, now * 1e9
        self.walks += 1
        while True:
            assert node.rows is not None
            silent: tuple[int, ...] = ()
            awaited: tuple[int, ...] = ()
            if node.silent:
                silent = tuple(int(one) for one in node.silent)
                awaited = tuple(int(one) for one, at in node.silent.items() if now < at + AWAITED_S)
            chain, holds, grace = node.rows.chain(row), node is holder, now_ns < node.until[row]
            asked = (node.number, chain, silent, awaited, holds, grace, opens, hop, prev, in_grace)
            decision = self._decisions.get(asked)
            if decision is None:
                socket = Socket.CONNECTION if holds else Socket.NONE
                here = NodeState(node.number, chain, socket, grace=grace, silent=silent, awaited=awaited, unmetered=2)
                decision = pick(here, Arrival(opens, hop, prev or None, in_grace=in_grace))
                if len(self._decisions) > MAX_DECISIONS:
                    self._decisions.clear()
                self._decisions[asked] = decision
            if decision.to is None:
                return decision.event, node
            following = self._nodes.get(decision.to)
            if following is None or not following.alive:
                return None, None
            node, hop, prev, in_grace = following, decision.hop, node.number, decision.in_grace
