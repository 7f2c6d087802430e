# SPDX-License-Identifier: Apache-2.0
"""What a router must know of the nodes: plain facts, whichever router it is.

Owns the vocabulary of the four renderers beside it, and what follows from the facts for all of them. Seen from the
router: the neighbors are the nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

from bgp.errors import BgpError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Family = Literal["ipv4", "ipv6"]

MAX_PATHS = 64
"""How many next hops a VIP may have: what FRR is built with at most, and what BIRD's default of 16 is raised to."""


@dataclass(frozen=True, slots=True)
class Bfd:
    """RFC 5880: a packet each `interval_ms`, and `multiplier` missing ones are a failure."""

    interval_ms: int
    multiplier: int


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How the router speaks with a node; nodes with equal sessions share a group.

    `local` is the router's own address. `passive`: the router waits for the node to connect. `multihop`: how many hops
    away the node may be; next door without. `password_file` is where the node has the MD5 password (RFC 2385); the
    router's side gets a placeholder. `internal`: router and node are of one AS, so the router must reflect (RFC 4456).
    """

    local: Address
    families: tuple[Family, ...]
    internal: bool = False
    hold_time_s: int = 9
    passive: bool = True
    ttl_security: bool = False
    multihop: int | None = None
    password_file: str | None = None
    bfd: Bfd | None = None

    @property
    def keepalive_s(self) -> int:
        """A third of the hold time, as RFC 4271 section 4.4 wants it."""
        return self.hold_time_s // 3

    @property
    def password(self) -> str | None:
        """What stands where the password belongs: never the password itself."""
        return f"PUT-HERE-WHAT-{self.password_file}-HOLDS" if self.password_file else None


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One session of a node. A node with sessions over IPv4 and IPv6 is two neighbors.

    `interface` is the router's, by which it reaches a link-local address.
    """

    name: str
    address: Address
    asn: int
    session: SessionSettings
    interface: str | None = None

    @property
    def zoned(self) -> str:
        """The address, with the interface behind a % where it takes one."""
        return f"{self.address}%{self.interface}" if self.interface else str(self.address)


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbors that are spoken with in the same way."""

    name: str
    session: SessionSettings
    neighbors: tuple[Neighbor, ...]


@dataclass(frozen=True, slots=True)
class Router:
    """All that a configuration is made of.

    `vips` holds prefixes whose host routes nodes may announce, `identities` the nodes' identities, a host route each.
    `log` is a file for the router's log; None: syslog. `made_by` is the command that asked for it.
    """

    asn: int
    router_id: IPv4Address
    neighbors: tuple[Neighbor, ...]
    vips: tuple[Network, ...]
    identities: IPv4Network
    max_prefixes: int = 16
    """Of a family, from one node."""
    log: str | None = None
    made_by: str = ""

    def __post_init__(self) -> None:
        if not self.neighbors:
            raise BgpError("router: no node is given: a configuration without one is of no use")
        for i, one in enumerate(self.neighbors):
            for other in self.neighbors[:i]:
                if one.name == other.name or one.zoned == other.zoned:
                    said = f"{other.name} {other.address} and {one.name} {one.address}"
                    raise BgpError(f"router: {said} share a name or an address: give each node's address once")
            if one.session.internal != (one.asn == self.asn):
                raise BgpError(
                    f"router: {one.name} of AS {one.asn}: whether its session is internal contradicts its AS"
                )

    @property
    def groups(self) -> tuple[Group, ...]:
        """The neighbors by session, in their order."""
        by_session: dict[SessionSettings, list[Neighbor]] = {}
        for neighbor in self.neighbors:
            by_session.setdefault(neighbor.session, []).append(neighbor)
        return tuple(
            Group(f"nodes{number or ''}", session, tuple(neighbors))
            for number, (session, neighbors) in enumerate(by_session.items())
        )

    @property
    def families(self) -> tuple[Family, ...]:
        """The families that any session carries."""
        used: set[Family] = {family for neighbor in self.neighbors for family in neighbor.session.families}
        every: tuple[Family, ...] = ("ipv4", "ipv6")
        return tuple(family for family in every if family in used)

    @property
    def shares_an_as(self) -> bool:
        """Whether two eBGP nodes are of the same AS, so that one hears its own AS number from the other."""
        numbers = [n.asn for n in self.neighbors if n.asn != self.asn]
        return len(numbers) > len(set(numbers)) or len(self.neighbors) == 1

    def accepted(self, family: Family) -> list[Network]:
        """The prefixes whose host routes nodes may announce: VIPs and identities."""
        return [prefix for prefix in (*self.vips, self.identities) if f"ipv{prefix.version}" == family]


def commented(mark: str, lines: Iterable[str]) -> list[str]:
    """Lines as comments."""
    return [f"{mark} {line}".rstrip() for line in lines]


def heading(router: Router, kind: str, mark: str) -> list[str]:
    """The first lines of a configuration."""
    return commented(
        mark,
        [
            f"The router's side of anylb, for {kind}: nodes announce VIPs and their identities; the router routes",
            "each VIP over all nodes that announce it, at equal cost, and hands every route on to every node.",
            *([f"Made by: {router.made_by}"] if router.made_by else []),
        ],
    )
