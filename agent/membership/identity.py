# SPDX-License-Identifier: Apache-2.0
"""Identities between the agent's model and BGP: this node's own as a route, other nodes' out of received routes. Pure.

Owns which received identity is accepted; which of several is believed is peer_table.py's, the wire format
bgp/community.py's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from agent.address import tag_of
from agent.config.schema import Config
from agent.config.service import ServiceConfig
from agent.membership.peer_table import Advertisement, PeerReport
from agent.model import Member, Share, State
from bgp.community import Identity, ServiceState, decode, encode, problem, service_id
from bgp.relay.protocol import Snapshot
from bgp.route import Route


@dataclass(frozen=True, slots=True)
class SeenIdentity:
    """One identity of this cluster as one router advertises it, accepted or not."""

    peer: str
    prefix: str
    address: IPv4Address
    version: int
    origin: int | None
    """The AS that originated the route; None when the AS path is empty."""

    @property
    def source(self) -> str:
        """The router, and the origin AS, as text."""
        return f"{self.peer} (from AS {self.origin})" if self.origin is not None else self.peer


# This node's own identity


def service_id_of(service: ServiceConfig) -> int:
    """Return the 28-bit id of a service in identities."""
    return service_id(service.vip, service.protocol, service.port_number)


def fallback_shares(shares: Mapping[int, Share]) -> dict[int, Share]:
    """Return a node's shares once its agent is silent or stopped: no new flows, and still the owner of those it has."""
    return {
        number: Share(share.weight, 0, State.LEFT if share.state is State.LEFT else State.DRAINING, announced=False)
        for number, share in shares.items()
    }


def own_identity(
    config: Config,
    address: IPv4Address,
    epochs: Sequence[int],
    shares: Mapping[int, Share],
    address6: IPv6Address | None,
) -> Identity:
    """Return this node's identity, without a version. `epochs`: those it supports, the preferred one first."""
    services = {
        number: ServiceState(share.weight, share.effective, str(share.state), share.announced)
        for number, share in shares.items()
    }
    return Identity(config.cluster, address, epochs[0], services, address6, epochs=tuple(epochs[1:]))


def content_digest(identity: Identity) -> str:
    """Return 16 hex digits that are equal for two identities if they differ in nothing but their versions."""
    return hashlib.sha256(repr(encode(replace(identity, version=0))).encode()).hexdigest()[:16]


def identity_address(config: Config, address: IPv4Address) -> IPv4Address:
    """Return a node's address in bgp.identity_prefix: not its on-link one, which routers must not learn by BGP."""
    return config.bgp.identity_prefix.network_address + tag_of(address)


def node_prefix(config: Config, address: IPv4Address) -> str:
    """Return the /32 under which a node announces its identity."""
    return f"{identity_address(config, address)}/32"


def identity_route(config: Config, identity: Identity) -> Route:
    """Return the route that carries an identity."""
    return Route.of(node_prefix(config, identity.address), str(identity.address), encode(identity), next_hop_self=True)


def announcer_prefixes(config: Config, members: Iterable[Member]) -> tuple[str, ...]:
    """Return the identity prefixes of the members that announce a VIP: no relay withdraws its VIPs while it receives
    fewer than half of them (bgp/relay/quorum.py)."""
    return tuple(
        node_prefix(config, member.address)
        for member in members
        if not member.lost and any(share.announced for share in member.shares.values())
    )


# Received identities


def peer_reports(config: Config, snapshot: Snapshot | None, connected: bool, own: IPv4Address) -> dict[str, PeerReport]:
    """Return what each configured peer that carries IPv4, the family of identities, advertises of other nodes.

    All peers are down while the relay is away or has sent no snapshot. A peer that did not negotiate IPv4 counts as
    down: that it advertises no identity means nothing.
    """
    peers = {peer.address: peer for peer in snapshot.peers} if snapshot and connected else {}
    result = {}
    for configured in config.bgp.peers:
        if "ipv4" not in configured.carries:
            continue
        peer = peers.get(configured.name)
        up = peer is not None and peer.up and "ipv4" in peer.families
        routes = peer.routes if peer and up else ()
        accepted = [advertisement for route in routes if (advertisement := _accept(config, route, own))]
        result[str(configured.address)] = PeerReport(
            up=up,
            advertisements={advertisement.address: advertisement for advertisement in accepted},
            since=peer.since if peer else 0.0,
            eor=bool(peer and peer.eor),
        )
    return result


def own_reflections(config: Config, snapshot: Snapshot | None, own: IPv4Address) -> list[tuple[int, str]]:
    """Return (version, content digest) of this node's own identity as received from routers that are up."""
    routes = [route for peer in snapshot.peers if peer.up for route in peer.routes] if snapshot else []
    received = [decode(route.large_communities, config.cluster) for route in routes]
    return [(one.version, content_digest(one)) for one in received if one and one.address == own]


def seen_identities(config: Config, snapshot: Snapshot | None) -> list[SeenIdentity]:
    """Return every identity of this cluster that routers which are up advertise, accepted or not."""
    found = []
    for peer in snapshot.peers if snapshot else ():
        for route in peer.routes if peer.up else ():
            identity = decode(route.large_communities, config.cluster)
            if identity is not None:
                origin = route.as_path[-1] if route.as_path else None
                found.append(SeenIdentity(peer.address, route.prefix, identity.address, identity.version, origin))
    return found


def unreadable_identities(config: Config, snapshot: Snapshot | None) -> list[str]:
    """Return the identities of this cluster that cannot be decoded, as one line each."""
    routes = [route for peer in snapshot.peers for route in peer.routes] if snapshot else []
    return [f"{route.prefix}: {why}" for route in routes if (why := problem(route.large_communities, config.cluster))]


def _accept(config: Config, route: Route, own: IPv4Address) -> Advertisement | None:
    """Return the identity in a route if it is of another node of this cluster, within members.allow, and announced
    under that node's own prefix."""
    identity = decode(route.large_communities, config.cluster)
    if identity is None or identity.address == own:
        return None
    if not any(identity.address in allowed for allowed in config.members.allow):
        return None
    if route.prefix != node_prefix(config, identity.address):
        return None
    shares = {
        number: Share(service.nominal, service.effective, State(service.state), service.announced)
        for number, service in identity.services.items()
    }
    # An IPv6 address outside members.allow is dropped: the data path would not decapsulate tunnels from it either.
    address6 = identity.address6
    if address6 and not any(address6 in allowed for allowed in config.members.allow):
        address6 = None
    return Advertisement(identity.address, identity.epoch, shares, address6, identity.version, identity.epochs)
