# SPDX-License-Identifier: Apache-2.0
"""The words that the agent's decisions are made of: states, members, candidates. Values only, no behavior of I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

TABLE_VERSIONS = (1,)
"""The ways from members to rows that this release knows, the newest last; algorithm.py has them. A way that makes other
rows for the same members has another number: it is part of the epoch."""

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class State(StrEnum):
    """What a member is to a service. `lost` is a belief about a silent member; it is never announced."""

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
    """A member's part in one service: the weight that its operator gave, and what it takes of it now (0 to nominal)."""

    weight: int
    effective: int
    state: State
    announced: bool = True
    """Whether the member announces the service's VIP to the routers, as it says itself."""


@dataclass(frozen=True, slots=True)
class Member:
    """A node as this node believes it to be. `shares` is keyed by the 28-bit service id of its identity."""

    address: IPv4Address
    epoch: int
    shares: Mapping[int, Share]
    lost: bool
    since: float
    """CLOCK_MONOTONIC seconds of the last change between present and lost."""
    why: str
    address6: IPv6Address | None = None
    """The other end of tunnels over IPv6; None where it told none."""
    version: int = 0
    """Of what it told: the higher is the newer."""
    epochs: tuple[int, ...] = ()
    """What it supports beside `epoch`, which it prefers."""
    changed: float = 0.0
    change: str = ""
    """When, and how, that changed last which it says of itself, since it is there."""

    @property
    def tag(self) -> int:
        """The low 16 bits of the address: how markers name the node."""
        return tag_of(self.address)

    @property
    def supports(self) -> frozenset[int]:
        """All epochs whose rows it can use."""
        return frozenset((self.epoch, *self.epochs))

    @property
    def state(self) -> State:
        """The node's state as a whole: `up` if it is for any service."""
        if self.lost:
            return State.LOST
        states = {share.state for share in self.shares.values()}
        return next((state for state in (State.UP, State.DRAINING) if state in states), State.LEFT)

    def share(self, service_id: int) -> Share | None:
        """This member's part in a service, `lost` if the member is; None when it has left or never served it."""
        share = self.shares.get(service_id)
        if share is None or share.state is State.LEFT:
            return None
        return Share(share.weight, 0, State.LOST, share.announced) if self.lost else share


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the table builder needs to know of a member of one service."""

    address: IPv4Address
    weight: int
    effective: int
    state: State


@dataclass(frozen=True, slots=True)
class Announcement:
    """Whether a VIP is to be announced, and why (not)."""

    wanted: bool
    why: str
    fault: bool = False
    """Whether it is not wanted because something fails, rather than because somebody said so."""
    method: Method | None = None
    """What is done to the route so that routers prefer others; None when it is announced as it is."""


def endpoint(address: Address, port: int | str) -> str:
    """Address and port as one word."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def tag_of(address: IPv4Address) -> int:
    """A node's 16-bit tag: the low bits of its address."""
    return int(address) & 0xFFFF


def epoch_of(version: int, rows: int, chain: int, hash_key: bytes, services: Iterable[tuple[int, str, str]]) -> int:
    """One 32-bit number over everything that decides a row; nodes that differ in it would disagree on owners.

    `services` are (service id, affinity, hash). Those of the usual kind do not count, so that nodes may serve
    different ones.
    """
    unusual = sorted(kind for kind in services if kind[1:] != ("5-tuple", "rendezvous"))
    text = f"table {version} rows {rows} chain {chain} key {hash_key.hex()} services {unusual}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
