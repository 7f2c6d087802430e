# SPDX-License-Identifier: Apache-2.0
"""The values that the agent's decisions are made of: states, members, candidates, announcements. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from agent.address import Address, endpoint, tag_of

NAT_TABLE: Final = "(nat)"
"""The name of the table of all sessions, beside those of services: no service may be called so."""
NAT_KEY: Final = "nat"
"""Its name in shares, beside the services' own (`service_key`)."""
MAX_WEIGHT: Final = 10_000
"""The largest weight of a member, a backend or an instance."""


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
    """Whether the member announces the service's VIP to the routers, as it publishes itself."""


def without_new_flows(share: Share) -> Share:
    """Return a share of a node that takes no new flows, and still owns those it has."""
    return share if share.state is State.LEFT else Share(share.weight, 0, State.DRAINING, share.announced)


def service_key(vip: Address, protocol: str, port: int) -> str:
    """Return the name of a service that is the same on every node: `192.0.2.10:443/tcp`; port 0 is any port."""
    return f"{endpoint(vip, port or 'any')}/{protocol}"


@dataclass(frozen=True, slots=True)
class Member:
    """A node in this node's view: what it publishes, and whether it answers."""

    address: IPv4Address
    epochs: tuple[int, ...]
    """The epochs that it supports, the preferred one first."""
    shares: Mapping[str, Share]
    """By service (`service_key`)."""
    lost: bool
    """It is silent for so long that it owns no row; it comes after the chains of its rows."""
    since: float
    """CLOCK_MONOTONIC seconds of the last change between present and lost."""
    why: str
    address6: IPv6Address | None = None
    """Its end of tunnels over IPv6; None if its identity has none."""
    boot: int = 0
    """The boot in which it published this: with another one its connections are gone."""
    version: int = 0
    """The version of what it publishes: within a boot of its agent the higher is the newer."""
    silent_since: float | None = None
    """CLOCK_MONOTONIC seconds since when its data path does not answer; None while it does."""
    changed: float = 0.0
    """CLOCK_MONOTONIC seconds of the last change of what it publishes since it appeared; 0 for none."""
    change: str = ""
    """What changed then."""

    @property
    def tag(self) -> int:
        """The low 16 bits of the address: markers name the node by it."""
        return tag_of(self.address)

    @property
    def epoch(self) -> int:
        """The epoch that it prefers."""
        return self.epochs[0]

    @property
    def supports(self) -> frozenset[int]:
        """All epochs whose rows it can use."""
        return frozenset(self.epochs)

    @property
    def state(self) -> State:
        """The node's state as a whole: `up` if it is up for any service."""
        if self.lost:
            return State.LOST
        states = {share.state for share in self.shares.values()}
        return next((state for state in (State.UP, State.DRAINING) if state in states), State.LEFT)

    def share(self, service: str) -> Share | None:
        """Return the member's share of a service, `lost` if the member is; None if it left or never served it."""
        share = self.shares.get(service)
        if share is None or share.state is State.LEFT:
            return None
        return Share(share.weight, 0, State.LOST, share.announced) if self.lost else share


class LocalSocket(StrEnum):
    """What a node's kernel has for the packets of a flow."""

    NONE = "none"
    CONNECTION = "connection"
    """In any state from SYN-RECV on; UDP: connected to this very client."""
    TIME_WAIT = "time-wait"
    LISTENER = "listener"
    """Of TCP, or a UDP socket that is not connected."""
    UNKNOWN = "unknown"
    """The kernel could not be asked."""


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow, as its client addresses it. `protocol`: tcp or udp."""

    protocol: str
    client: Address
    client_port: int
    vip: Address
    vip_port: int

    def __str__(self) -> str:
        return f"{self.protocol} {endpoint(self.client, self.client_port)} {endpoint(self.vip, self.vip_port)}"


class Port(NamedTuple):
    """A port of a protocol, tcp or udp."""

    protocol: str
    number: int


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket of this node to which clients come: of TCP, one that listens; of UDP, one that is not connected."""

    address: Address
    port: Port
    ifindex: int
    """The interface that it is bound to; 0: any."""
    cookie: int
    """The kernel's number for the socket (SO_COOKIE), which no other socket gets on this boot."""
    inode: int
    """As in /proc/PID/fd."""
    only6: bool = False
    """Whether it takes no IPv4 (IPV6_V6ONLY)."""

    def takes(self, vip: Address) -> bool:
        """Return whether connections to a VIP may be its."""
        if self.address == vip:
            return True
        same = self.address.version == vip.version
        return self.address.is_unspecified and (same or (self.address.version == 6 and not self.only6))


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
