# SPDX-License-Identifier: Apache-2.0
"""The values that the agent's decisions are made of: states, members, candidates, announcements. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from agent.address import tag_of


class State(StrEnum):
    """A member's state in a service. `lost` is a belief about a silent member; no node announces it."""

    UP = "up"
    DRAINING = "draining"
    LOST = "lost"
    LEFT = "left"


class Method(StrEnum):
    """How the drain of a VIP makes the routers prefer other nodes."""

    WITHDRAW = "withdraw"
    PREPEND = "prepend"
    MED = "med"
    GSHUT = "gshut"


@dataclass(frozen=True, slots=True)
class Share:
    """A member's share of one service: the nominal weight, and the effective one (0 to nominal)."""

    weight: int
    effective: int
    state: State
    announced: bool = True
    """Whether the member announces the service's VIP to the routers, according to its own identity."""


@dataclass(frozen=True, slots=True)
class Member:
    """A node in this node's view. The keys of `shares` are the 28-bit service ids of its identity."""

    address: IPv4Address
    epoch: int
    """The epoch that it prefers."""
    shares: Mapping[int, Share]
    lost: bool
    since: float
    """CLOCK_MONOTONIC seconds of the last change between present and lost."""
    why: str
    address6: IPv6Address | None = None
    """Its end of tunnels over IPv6; None if its identity has none."""
    version: int = 0
    """The version of its identity: the higher is the newer."""
    epochs: tuple[int, ...] = ()
    """The epochs that it supports in addition to `epoch`."""
    changed: float = 0.0
    """CLOCK_MONOTONIC seconds of the last change of its own identity since it appeared; 0 for none."""
    change: str = ""
    """What changed then."""

    @property
    def tag(self) -> int:
        """The low 16 bits of the address: markers name the node by it."""
        return tag_of(self.address)

    @property
    def supports(self) -> frozenset[int]:
        """All epochs whose rows it can use."""
        return frozenset((self.epoch, *self.epochs))

    @property
    def state(self) -> State:
        """The node's state as a whole: `up` if it is up for any service."""
        if self.lost:
            return State.LOST
        states = {share.state for share in self.shares.values()}
        return next((state for state in (State.UP, State.DRAINING) if state in states), State.LEFT)

    def share(self, service_id: int) -> Share | None:
        """Return the member's share of a service, `lost` if the member is; None if it left or never served it."""
        share = self.shares.get(service_id)
        if share is None or share.state is State.LEFT:
            return None
        return Share(share.weight, 0, State.LOST, share.announced) if self.lost else share


@dataclass(frozen=True, slots=True)
class Candidate:
    """A member of one service as the table builder needs it."""

    address: IPv4Address
    weight: int
    effective: int
    state: State


@dataclass(frozen=True, slots=True)
class Announcement:
    """The decision whether to announce a VIP, with its reason."""

    wanted: bool
    why: str
    fault: bool = False
    """Whether a failure, not the operator, is the reason for not announcing it."""
    method: Method | None = None
    """How the route is made less preferred; None if it is announced unchanged."""
