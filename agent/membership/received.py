# SPDX-License-Identifier: Apache-2.0
"""The identities in the routes that BGP peers advertise: who may be there. Pure.

Owns what is read out of a snapshot of the relay. An identity makes its node a candidate, which is asked (liveness/) and
which publishes itself what it serves (channel/); view.py decides what it then is. So nothing that a router repeats
decides about a member: an identity that is withdrawn is a reason to ask its node at once, no more.

A cluster of 1,000 nodes behind two routers has 2,000 identities, and one of them changes at a time. So each route is
decoded once, as long as it is received: the relay's client keeps a `Route` that has not changed as the same object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import NamedTuple

from agent.address import Address, NodeAddress
from agent.config.schema import Config
from agent.membership.digest import vip_digest
from agent.membership.identity import node_prefix
from agent.problem import Problem, ProblemLine
from bgp.community import decode, decode_other, problem
from bgp.relay.protocol import Peer, Snapshot
from bgp.route import Route

UNREADABLE = Problem(
    "{prefix}: {why}",
    "install the same release on all nodes; if they have it, see which router changes large communities",
    "A route in bgp.identity_prefix has this cluster's number and is no identity. Its node is not known by it.",
)
STRIPPED = Problem(
    "{prefix}, received from {router}, has no large communities: a router on its path strips them, so its node is not "
    "known here",
    "have the routers send large communities (RFC 8092)",
    "Some routers send them only if they are configured to. Until then name the node in members.static.",
)


@dataclass(frozen=True, slots=True)
class SeenIdentity:
    """One identity of this cluster as one router advertises it, accepted or not."""

    peer: str
    prefix: str
    address: IPv4Address
    start: int
    origin: int | None
    """The AS that originated the route; None when the AS path is empty."""
    own_prefix: bool = True
    """Whether the route is for the prefix of this address in bgp.identity_prefix."""
    allowed: bool = True
    """Whether the address is in members.allow."""
    address6: IPv6Address | None = None
    announces: bool = False

    @property
    def accepted(self) -> bool:
        """Whether it makes its node a candidate."""
        return self.own_prefix and self.allowed

    @property
    def source(self) -> str:
        """The router, and the origin AS, as text."""
        return f"{self.peer} (from AS {self.origin})" if self.origin is not None else self.peer


class OtherCluster(NamedTuple):
    """A node of this network that announces a VIP of this cluster's for another cluster."""

    address: IPv4Address
    cluster: int
    vip: Address


@dataclass(frozen=True, slots=True)
class Named:
    """A node that BGP, the configuration or an earlier agent names: a candidate."""

    address6: IPv6Address | None = None
    """Its end of tunnels over IPv6."""
    start: int = 0
    """When its agent started, as its identity has it: a new value is a reason to ask it at once."""
    announces: bool = False
    """Whether routers send packets to it, by its identity."""


@dataclass(frozen=True, slots=True)
class Received:
    """All that the routers advertise of this cluster's nodes."""

    named: Mapping[IPv4Address, Named] = field(default_factory=dict)
    """The other nodes whose identities are accepted; the same object as long as none changes."""
    seen: tuple[SeenIdentity, ...] = ()
    """Every identity of this cluster that routers which are up advertise, accepted or not."""
    unreadable: tuple[ProblemLine, ...] = ()
    """The identities of this cluster that cannot be decoded, as one line each."""
    other_clusters: frozenset[OtherCluster] = frozenset()
    complete: bool = False
    """Some peer that carries identities has sent its whole table."""
    withdrawn: frozenset[IPv4Address] = frozenset()
    """The nodes that a session which is still up named until now, and no longer does. A session that ended says nothing
    about them."""


@dataclass(frozen=True, slots=True)
class _RouteRead:
    """What one route of one peer contains."""

    route: Route
    seen: SeenIdentity | None = None
    unreadable: ProblemLine | None = None
    other_cluster: OtherCluster | None = None


class IdentityReader:
    """Reads snapshots; what has not changed since the last one is the same object as before."""

    def __init__(self, config: Config, own: IPv4Address) -> None:
        """`own` is this node's address."""
        self._config, self._own = config, own
        self._reads: dict[tuple[str, int], _RouteRead] = {}
        """By peer and the route object's id; the value keeps the object, so that no other gets the same id."""
        self._sessions: dict[str, tuple[float, frozenset[IPv4Address]]] = {}
        """Since when each peer is up, and the nodes that it named last."""
        self._addresses: dict[int, NodeAddress] = {}
        """One object for each node, whatever of it changes."""
        self._vips = {vip_digest(vip): vip for vip in config.vips}
        self._last: tuple[Snapshot | None, bool] | None = None
        self._received = Received()

    def read(self, snapshot: Snapshot | None, connected: bool) -> Received:
        """Return what the routers advertise. While the relay is away (not `connected`) or has sent nothing, all peers
        count as down."""
        if self._last is not None and self._last[0] is snapshot and self._last[1] == connected:
            return self._received
        self._last = snapshot, connected
        carrying = {one.name for one in self._config.bgp.peers if "ipv4" in one.carries}
        up = {
            peer.address: peer
            for peer in (snapshot.peers if snapshot and connected else ())
            if peer.up and peer.address in carrying and "ipv4" in peer.families
        }
        reads = {peer: [self._read(peer, route) for route in one.routes] for peer, one in up.items()}
        self._reads = {(peer, id(one.route)): one for peer, some in reads.items() for one in some}
        seen = tuple(one.seen for some in reads.values() for one in some if one.seen)
        named = self._named(seen)
        self._received = Received(
            self._received.named if named == self._received.named else named,
            seen,
            tuple(one.unreadable for some in reads.values() for one in some if one.unreadable),
            frozenset(one.other_cluster for some in reads.values() for one in some if one.other_cluster),
            any(peer.eor for peer in up.values()),
            self._withdrawn(up, reads),
        )
        self._forget_unused(seen)
        return self._received

    def _named(self, seen: tuple[SeenIdentity, ...]) -> dict[IPv4Address, Named]:
        named: dict[IPv4Address, Named] = {}
        for one in seen:
            if one.accepted and one.address != self._own:
                before = named.get(one.address)
                if before is None or before.start < one.start:
                    named[one.address] = Named(one.address6, one.start, one.announces)
        return named

    def _withdrawn(self, up: Mapping[str, Peer], reads: Mapping[str, list[_RouteRead]]) -> frozenset[IPv4Address]:
        withdrawn: set[IPv4Address] = set()
        sessions = {}
        for address, peer in up.items():
            now = frozenset(one.seen.address for one in reads[address] if one.seen and one.seen.accepted)
            since, before = self._sessions.get(address, (peer.since, frozenset[IPv4Address]()))
            if since == peer.since:
                withdrawn |= before - now
            sessions[address] = peer.since, now
        self._sessions = sessions
        return frozenset(withdrawn - {self._own})

    def _read(self, peer: str, route: Route) -> _RouteRead:
        known = self._reads.get((peer, id(route)))
        if known is not None:
            return known
        identity = decode(route.large_communities, self._config.cluster)
        allow = self._config.members.allow
        if identity is None:
            return _RouteRead(route, None, self._unreadable(peer, route), self._other_cluster(route))
        # An IPv6 address outside members.allow is dropped: the data path would not decapsulate tunnels from it either.
        address6 = identity.address6 if any(identity.address6 in one for one in allow if identity.address6) else None
        seen = SeenIdentity(
            peer,
            route.prefix,
            self._addresses.setdefault(int(identity.address), NodeAddress(identity.address)),
            identity.start,
            route.as_path[-1] if route.as_path else None,
            own_prefix=route.prefix == node_prefix(self._config, identity.address),
            allowed=any(identity.address in network for network in allow),
            address6=address6,
            announces=bool(identity.announces),
        )
        return _RouteRead(route, seen)

    def _other_cluster(self, route: Route) -> OtherCluster | None:
        """Return who breaks connections of this cluster's clients, as another cluster that has other VIPs does not."""
        other = decode_other(route.large_communities, self._config.cluster)
        if other is None or other.announces not in self._vips or other.address == self._own:
            return None
        if not any(other.address in network for network in self._config.members.allow):
            return None
        return OtherCluster(other.address, other.cluster, self._vips[other.announces])

    def _unreadable(self, peer: str, route: Route) -> ProblemLine | None:
        why = problem(route.large_communities, self._config.cluster)
        if why:
            return UNREADABLE.line(prefix=route.prefix, why=why)
        stripped = not route.large_communities and not route.ipv6
        if stripped and IPv4Network(route.prefix).subnet_of(self._config.bgp.identity_prefix):
            return STRIPPED.line(prefix=route.prefix, router=peer)
        return None

    def _forget_unused(self, seen: tuple[SeenIdentity, ...]) -> None:
        if len(self._addresses) > 2 * len(seen) + 64:
            used = {int(one.address) for one in seen}
            self._addresses = {number: one for number, one in self._addresses.items() if number in used}
