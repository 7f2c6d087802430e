# SPDX-License-Identifier: Apache-2.0
"""The identities in the routes that BGP peers advertise: accepted ones, others, and this node's own. Pure.

Owns what is read out of a snapshot of the relay; which of several advertisements is best is peer_table.py's.

A cluster of 1,000 nodes with 50 services behind two routers has 2,000 identities of 50 services each, and one of them
changes at a time. So each route is decoded once, as long as it is received: the relay's client keeps a `Route` that has
not changed as the same object. Equal identities of several routers are one `Advertisement`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address

from agent.address import NodeAddress
from agent.config.schema import Config
from agent.membership.identity import content_digest, node_prefix
from agent.membership.peer_table import Advertisement, PeerReport
from agent.model import Share, State
from bgp.community import Identity, decode, problem
from bgp.relay.protocol import Peer, Snapshot
from bgp.route import LargeCommunity, Route


@dataclass(frozen=True, slots=True)
class SeenIdentity:
    """One identity of this cluster as one router advertises it, accepted or not."""

    peer: str
    prefix: str
    address: IPv4Address
    version: int
    origin: int | None
    """The AS that originated the route; None when the AS path is empty."""
    own_prefix: bool = True
    """Whether the route is for the prefix of this address in bgp.identity_prefix."""
    allowed: bool = True
    """Whether the address is in members.allow."""

    @property
    def source(self) -> str:
        """The router, and the origin AS, as text."""
        return f"{self.peer} (from AS {self.origin})" if self.origin is not None else self.peer


@dataclass(frozen=True, slots=True)
class Received:
    """All that the routers advertise of this cluster's nodes."""

    reports: Mapping[str, PeerReport] = field(default_factory=dict)
    """By configured peer that carries IPv4, the family of identities."""
    seen: tuple[SeenIdentity, ...] = ()
    """Every identity of this cluster that routers which are up advertise, accepted or not."""
    reflections: tuple[tuple[int, str], ...] = ()
    """(version, content digest) of this node's own identity as received from routers that are up."""
    unreadable: tuple[str, ...] = ()
    """The identities of this cluster that cannot be decoded, as one line each."""


@dataclass(frozen=True, slots=True)
class _RouteRead:
    """What one route of one peer contains."""

    route: Route
    advertisement: Advertisement | None = None
    seen: SeenIdentity | None = None
    reflection: tuple[int, str] | None = None
    unreadable: str | None = None


@dataclass(slots=True)
class _PeerRead:
    """What one peer's routes contain, and the report made of it."""

    routes: tuple[Route, ...] = ()
    by_route: dict[int, _RouteRead] = field(default_factory=dict)
    """By the object's id; the value keeps the object, so that no other gets the same id."""
    advertisements: dict[IPv4Address, Advertisement] = field(default_factory=dict)
    report: PeerReport | None = None


class IdentityReader:
    """Reads snapshots; what has not changed since the last one is the same object as before."""

    def __init__(self, config: Config, own: IPv4Address) -> None:
        """`own` is this node's address."""
        self._config, self._own = config, own
        self._peers: dict[str, _PeerRead] = {}
        self._advertisements: dict[tuple[LargeCommunity, ...], Advertisement] = {}
        self._addresses: dict[int, NodeAddress] = {}
        """One object for each node, whatever of it changes."""
        self._last: tuple[Snapshot | None, bool] | None = None
        self._received = Received()

    def read(self, snapshot: Snapshot | None, connected: bool) -> Received:
        """Return what the routers advertise. While the relay is away (not `connected`) or has sent nothing, all peers
        count as down."""
        if self._last is not None and self._last[0] is snapshot and self._last[1] == connected:
            return self._received
        self._last = snapshot, connected
        peers = {peer.address: peer for peer in snapshot.peers} if snapshot and connected else {}
        self._peers = {address: self._read_peer(peer) for address, peer in peers.items()}
        reads = [(peer, one) for a, peer in peers.items() for one in self._peers[a].by_route.values()]
        up = [one for peer, one in reads if peer.up]
        self._received = Received(
            reports=self._reports(peers),
            seen=tuple(one.seen for one in up if one.seen),
            reflections=tuple(one.reflection for one in up if one.reflection),
            unreadable=tuple(one.unreadable for _, one in reads if one.unreadable),
        )
        self._forget_unused(len(reads))
        return self._received

    def _reports(self, peers: Mapping[str, Peer]) -> dict[str, PeerReport]:
        reports = {}
        for configured in self._config.bgp.peers:
            if "ipv4" not in configured.carries:
                continue
            peer = peers.get(configured.name)
            # A peer that did not negotiate IPv4 counts as down: that it advertises no identity means nothing.
            up = peer is not None and peer.up and "ipv4" in peer.families
            read = self._peers.get(configured.name)
            advertisements = read.advertisements if read and up else {}
            report = PeerReport(up, advertisements, peer.since if peer else 0.0, bool(peer and peer.eor))
            if read is not None:
                before = read.report
                if (
                    before is not None
                    and before.advertisements is advertisements
                    and (before.up, before.since, before.eor) == (report.up, report.since, report.eor)
                ):
                    report = before
                read.report = report
            reports[str(configured.address)] = report
        return reports

    def _read_peer(self, peer: Peer) -> _PeerRead:
        before = self._peers.get(peer.address) or _PeerRead()
        if before.routes is peer.routes:
            return before
        by_route = {}
        for route in peer.routes:
            known = before.by_route.get(id(route))
            by_route[id(route)] = known or self._read_route(peer.address, route)
        accepted = {one.advertisement.address: one.advertisement for one in by_route.values() if one.advertisement}
        return _PeerRead(peer.routes, by_route, accepted, before.report)

    def _read_route(self, peer: str, route: Route) -> _RouteRead:
        cluster = self._config.cluster
        identity = decode(route.large_communities, cluster)
        if identity is None:
            why = problem(route.large_communities, cluster)
            return _RouteRead(route, unreadable=f"{route.prefix}: {why}" if why else None)
        origin = route.as_path[-1] if route.as_path else None
        seen = SeenIdentity(
            peer,
            route.prefix,
            self._address(identity.address),
            identity.version,
            origin,
            own_prefix=route.prefix == node_prefix(self._config, identity.address),
            allowed=any(identity.address in network for network in self._config.members.allow),
        )
        if identity.address == self._own:
            return _RouteRead(route, seen=seen, reflection=(identity.version, content_digest(identity)))
        accepted = self._advertisement(route, identity) if seen.own_prefix and seen.allowed else None
        return _RouteRead(route, accepted, seen)

    def _advertisement(self, route: Route, identity: Identity) -> Advertisement:
        known = self._advertisements.get(route.large_communities)
        if known is not None:
            return known
        shares = {
            number: _share(service.nominal, service.effective, service.state, service.announced)
            for number, service in identity.services.items()
        }
        # An IPv6 address outside members.allow is dropped: the data path would not decapsulate tunnels from it either.
        address6 = identity.address6
        if address6 and not any(address6 in network for network in self._config.members.allow):
            address6 = None
        address = self._address(identity.address)
        made = Advertisement(address, identity.epoch, shares, address6, identity.version, identity.epochs)
        return self._advertisements.setdefault(route.large_communities, made)

    def _address(self, address: IPv4Address) -> NodeAddress:
        return self._addresses.setdefault(int(address), NodeAddress(address))

    def _forget_unused(self, routes: int) -> None:
        """Bound what is kept of identities that no router advertises any more."""
        if len(self._advertisements) > 2 * routes + 64:
            used = {one.route.large_communities for peer in self._peers.values() for one in peer.by_route.values()}
            self._advertisements = {key: one for key, one in self._advertisements.items() if key in used}
            seen = {int(one.address) for one in self._received.seen}
            self._addresses = {number: one for number, one in self._addresses.items() if number in seen}


@lru_cache(4096)
def _share(weight: int, effective: int, state: str, announced: bool) -> Share:
    """Return the same object for equal shares: of 1,000 members with 50 services most are equal, and the garbage
    collector visits every object."""
    return Share(weight, effective, State(state), announced)
