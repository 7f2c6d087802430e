# SPDX-License-Identifier: Apache-2.0
"""What a node of the simulation of clusters is: its agent's parts, and the rows by which its data path forwards."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from agent.address import NodeAddress
from agent.channel.channel import Channel
from agent.channel.state import NodeState
from agent.forwarding.row_array import rows_of
from agent.liveness.asker import Asker
from agent.membership.received import Named
from agent.membership.view import View
from agent.model import Candidate, State
from agent.table.algorithm import build
from agent.table.claims import claimants

ROWS, PLACES = 256, 4
Chain = tuple[IPv4Address, ...]


def chains_of(found: tuple[Candidate, ...]) -> tuple[Chain, ...]:
    """Return the nodes of each row in the kernel, lost ones after the chain, as a walk meets them."""
    table = build(1, "rendezvous", found, ROWS, PLACES)
    claimed = claimants(table, found, {}) if table.lost else None
    members = [NodeAddress(member) for member in table.members]
    rows = rows_of(table, claimed, range(1, len(members) + 1), ROWS).array().tolist()
    return tuple(tuple(members[i - 1] for i in itertools.takewhile(bool, row)) for row in rows)


@dataclass(eq=False)
class Node:
    """One server: its data path, its agent, what it holds."""

    address: IPv4Address
    boot: int = 1
    alive: bool = True
    """Its data path answers and forwards."""
    agent: bool = True
    state: State = State.UP
    started_at: float = 0.0
    asker: Asker = field(init=False)
    channel: Channel = field(init=False)
    view: View = field(init=False)
    named: dict[IPv4Address, Named] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()
    chains: tuple[Chain, ...] = ((),) * ROWS
    grace: dict[int, float] = field(default_factory=dict)
    """Until when, by row."""
    silent: dict[IPv4Address, float] = field(default_factory=dict)
    doubted: dict[IPv4Address, float] = field(default_factory=dict)
    version: int = 1
    published: NodeState | None = None
    """What its agent published last."""
    due: float = 0.0
    """When its agent acts next."""

    @property
    def ready(self) -> bool:
        """Whether it has tables."""
        return bool(self.candidates)
