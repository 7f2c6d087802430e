# SPDX-License-Identifier: Apache-2.0
"""The facts that a router's configuration needs, whatever its kind.

Owns the values that the four renderers share, and what follows from them. Seen from the router: the neighbors are the
nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

from bgp.bfd.config import BfdTimers
from bgp.errors import BgpError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Family = Literal["ipv4", "ipv6"]

MAX_PATHS = 64
"""The limit of next hops for a VIP: FRR's compile-time maximum, to which BIRD's default of 16 is raised."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """The settings of a session between router and node; nodes with equal settings share a peer group.

    `local`: the router's own address. `passive`: the router waits for the node to connect. `multihop`: how many hops
    away the node may be; without it the node is on the link. `password_file`: the node's file of the MD5 password (RFC
    2385); the router's configuration gets a placeholder. `internal`: router and node are in one AS (iBGP), so the
    router must be a route reflector (RFC 4456).
    """

    local: Address
    families: tuple[Family, ...]
    internal: bool = False
    hold_time_s: int = 9
    passive: bool = True
    ttl_security: bool = False
    multihop: int | None = None
    password_file: str | None = None
    bfd: BfdTimers | None = None

    @property
    def keepalive_s(self) -> int:
        """A third of the hold time, as RFC 4271 section 4.4 suggests."""
        return self.hold_time_s // 3

    @property
    def password(self) -> str | None:
        """A placeholder for the password, never the password itself."""
        return f"REPLACE-BY-CONTENT-OF-{self.password_file}" if self.password_file else None


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One session of a node. A node with sessions over IPv4 and IPv6 is two neighbors.

    `identity`: the /32 that the node announces as its identity, and no other node may; None if the session carries no
    IPv4. `interface`: the router's interface towards a link-local address.
    """

    name: str
    address: Address
    asn: int
    session: SessionSettings
    identity: IPv4Network | None = None
    interface: str | None = None

    @property
    def with_zone(self) -> str:
        """The address as text, with %interface if it is link-local."""
        return f"{self.address}%{self.interface}" if self.interface else str(self.address)


@dataclass(frozen=True, slots=True)
class PeerGroup:
    """Neighbors with equal session settings."""

    name: str
    session: SessionSettings
    neighbors: tuple[Neighbor, ...]


@dataclass(frozen=True, slots=True)
class Router:
    """Everything that a router's configuration contains.

    A node may announce the host routes inside `vips`, the prefixes `pools`, and its own identity; it receives the host
    routes inside `identities`. `log`: the file of the router's log; None: syslog. `made_by`: the command that made the
    configuration.
    """

    asn: int
    router_id: IPv4Address
    neighbors: tuple[Neighbor, ...]
    vips: tuple[Network, ...]
    identities: IPv4Network
    max_prefixes: int = 16
    """Per address family and node."""
    log: str | None = None
    made_by: str = ""
    pools: tuple[Network, ...] = ()

    def __post_init__(self) -> None:
        if not self.neighbors:
            raise BgpError("router: no node is given: give at least one")
        for i, one in enumerate(self.neighbors):
            for other in self.neighbors[:i]:
                if one.name == other.name or one.with_zone == other.with_zone:
                    both = f"{other.name} {other.address} and {one.name} {one.address}"
                    raise BgpError(f"router: {both} share a name or an address: give each node's address once")
            if (one.identity is not None) != ("ipv4" in one.session.families):
                raise BgpError(f"router: {one.name}: a session has an identity if it carries IPv4, and only then")
            if one.session.internal != (one.asn == self.asn):
                raise BgpError(f"router: {one.name} in AS {one.asn}: a session is internal in the router's AS only")

    @property
    def peer_groups(self) -> tuple[PeerGroup, ...]:
        """The neighbors grouped by session settings, in order."""
        by_session: dict[SessionSettings, list[Neighbor]] = {}
        for neighbor in self.neighbors:
            by_session.setdefault(neighbor.session, []).append(neighbor)
        return tuple(
            PeerGroup(f"nodes{number or ''}", session, tuple(neighbors))
            for number, (session, neighbors) in enumerate(by_session.items())
        )

    @property
    def families(self) -> tuple[Family, ...]:
        """The address families of all sessions."""
        used: set[Family] = {family for neighbor in self.neighbors for family in neighbor.session.families}
        every: tuple[Family, ...] = ("ipv4", "ipv6")
        return tuple(family for family in every if family in used)

    @property
    def shares_an_as(self) -> bool:
        """Whether two eBGP nodes share an AS, so that each receives the other's routes with its own AS in the path."""
        numbers = [n.asn for n in self.neighbors if n.asn != self.asn]
        return len(numbers) > len(set(numbers)) or len(self.neighbors) == 1

    def vips_of(self, family: Family) -> list[Network]:
        """Return the prefixes inside which nodes may announce VIPs."""
        return [prefix for prefix in self.vips if f"ipv{prefix.version}" == family]

    def pools_of(self, family: Family) -> list[Network]:
        """Return the pools of NAT, which nodes may announce as they are."""
        return [pool for pool in self.pools if f"ipv{pool.version}" == family]


def commented(mark: str, lines: Iterable[str]) -> list[str]:
    """Return the lines as comments."""
    return [f"{mark} {line}".rstrip() for line in lines]


def heading(router: Router, kind: str, mark: str) -> list[str]:
    """Return the first lines of a configuration."""
    return commented(
        mark,
        [
            f"The router's configuration for anylb, for {kind}: a node announces VIPs and its own identity; the router",
            "routes each VIP over all nodes that announce it, at equal cost, and advertises identities to every node.",
            f"All else is refused both ways. A node may announce {router.max_prefixes} routes per address family.",
            *(
                [f"For NAT a node announces a pool as well: {', '.join(map(str, router.pools))}."]
                if router.pools
                else []
            ),
            *([f"Made by: {router.made_by}"] if router.made_by else []),
        ],
    )
