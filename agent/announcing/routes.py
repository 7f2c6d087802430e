# SPDX-License-Identifier: Apache-2.0
"""Between the agent's words and BGP's: routes to announce from a condition, reports from what the relay heard. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from agent.address import Address, tag_of
from agent.announcing.decide import with_drain_attributes
from agent.config.schema import Config
from agent.config.service import ServiceConfig
from agent.membership.conflict import SeenIdentity
from agent.membership.identity_version import Version
from agent.membership.peer_table import Advertisement, PeerReport
from agent.model import Member, Method, Share, State
from bgp.community import Identity, ServiceState, decode, encode, problem, service_id
from bgp.relay.protocol import Snapshot
from bgp.route import Route


def id_of(service: ServiceConfig) -> int:
    """The 28 bits that stand for a service in identities."""
    return service_id(service.vip, service.protocol, service.port_number)


def desired_routes(
    config: Config,
    address: IPv4Address,
    epochs: Sequence[int],
    shares: Mapping[int, Share],
    vips: Mapping[Address, Method | None],
    address6: IPv6Address | None = None,
    version: Version | None = None,
    next_hop6: IPv6Address | None = None,
) -> tuple[list[Route], list[Route]]:
    """(what to announce, what to announce instead when this agent falls silent). `vips` says how each is drained.

    The fallback is the identity alone, draining: a dead agent no longer draws flows, and is still known as the owner
    of those it has. Its version is above the live one, and below that of the agent's next word. `next_hop6` is the
    next hop of IPv6 VIPs.
    """
    live = identity(config, address, epochs, shares, address6)
    silent = identity(config, address, epochs, fallback_shares(shares), address6)
    if version is not None:
        live, silent = replace(live, version=version.number), replace(silent, version=version.fallback)
    own = [
        with_drain_attributes(route, method)
        for vip, method in vips.items()
        if (route := vip_route(config, vip, address, next_hop6))
    ]
    return [_route(config, live), *own], [_route(config, silent)]


def vip_route(config: Config, vip: Address, address: IPv4Address, address6: IPv6Address | None) -> Route | None:
    """A VIP's route with all that lb.yml has it carry. The next hop is said outright, in the VIP's own family: ExaBGP's
    "self" is wrong where session and route differ in it. None for an IPv6 VIP of a node without an IPv6 address.
    """
    said = config.announce_of(vip)
    next_hop = said.next_hop or (address if vip.version == 4 else address6)
    if next_hop is None:
        return None
    return Route.of(
        prefix(vip),
        str(next_hop),
        said.large_communities,
        communities=said.communities,
        med=said.med,
        prepend=said.prepend,
        own_hop=said.next_hop is None,
    )


def prefix(vip: Address) -> str:
    """A VIP as a route's prefix."""
    return f"{vip}/{vip.max_prefixlen}"


def fallback_shares(shares: Mapping[int, Share]) -> dict[int, Share]:
    """A node's shares once its agent is silent or stopped: no new flows, those that it has are still its own."""
    return {
        number: Share(share.weight, 0, State.LEFT if share.state is State.LEFT else State.DRAINING, announced=False)
        for number, share in shares.items()
    }


def identity(
    config: Config,
    address: IPv4Address,
    epochs: Sequence[int],
    shares: Mapping[int, Share],
    address6: IPv6Address | None,
) -> Identity:
    """What this node says of itself, without a version. `epochs`: what it supports, the one that it prefers first."""
    services = {
        number: ServiceState(share.weight, share.effective, str(share.state), share.announced)
        for number, share in shares.items()
    }
    return Identity(config.cluster, address, epochs[0], services, address6, epochs=tuple(epochs[1:]))


def content(said: Identity) -> str:
    """16 hex digits that are equal for two identities if and only if they say the same, whatever their versions."""
    return hashlib.sha256(repr(encode(replace(said, version=0))).encode()).hexdigest()[:16]


def _route(config: Config, said: Identity) -> Route:
    address = f"{identity_address(config, said.address)}/32"
    return Route.of(address, str(said.address), encode(said), own_hop=True)


def identity_address(config: Config, address: IPv4Address) -> IPv4Address:
    """The address that stands for a node in BGP: never its own on-link one, which routers must not learn from afar."""
    return config.bgp.identity_prefix.network_address + tag_of(address)


def announcer_prefixes(config: Config, members: Iterable[Member]) -> tuple[str, ...]:
    """The identity prefixes of those that announce a VIP: while fewer than half of them remain, no relay withdraws."""
    return tuple(
        f"{identity_address(config, member.address)}/32"
        for member in members
        if not member.lost and any(share.announced for share in member.shares.values())
    )


def peer_reports(config: Config, snapshot: Snapshot | None, connected: bool, own: IPv4Address) -> dict[str, PeerReport]:
    """What each configured peer that carries IPv4, as identities are, tells of other nodes.

    All are down while the relay is away or has said nothing. A peer that took no IPv4 counts as down: its silence says
    nothing.
    """
    peers = {peer.address: peer for peer in snapshot.peers} if snapshot and connected else {}
    result = {}
    for configured in config.bgp.peers:
        if "ipv4" not in configured.carries:
            continue
        peer = peers.get(configured.name)
        up = peer is not None and peer.up and "ipv4" in peer.families
        routes = peer.routes if peer and up else ()
        heard = [told for route in routes if (told := _told(config, route, own))]
        result[str(configured.address)] = PeerReport(
            up=up,
            told={told.address: told for told in heard},
            since=peer.since if peer else 0.0,
            eor=bool(peer and peer.eor),
        )
    return result


def own_reflections(config: Config, snapshot: Snapshot | None, own: IPv4Address) -> list[tuple[int, str]]:
    """(version, content) of this node's own identity as routers that are up tell it."""
    routes = [route for peer in snapshot.peers if peer.up for route in peer.routes] if snapshot else []
    heard = [decode(route.large_communities, config.cluster) for route in routes]
    return [(said.version, content(said)) for said in heard if said and said.address == own]


def seen_identities(config: Config, snapshot: Snapshot | None) -> list[SeenIdentity]:
    """Every identity of this cluster that routers which are up tell, believed or not."""
    found = []
    for peer in snapshot.peers if snapshot else ():
        for route in peer.routes if peer.up else ():
            said = decode(route.large_communities, config.cluster)
            if said is not None:
                origin = route.as_path[-1] if route.as_path else None
                found.append(SeenIdentity(peer.address, route.prefix, said.address, said.version, origin))
    return found


def unreadable_identities(config: Config, snapshot: Snapshot | None) -> list[str]:
    """Identities of this cluster that cannot be read, a line each."""
    routes = [route for peer in snapshot.peers for route in peer.routes] if snapshot else []
    return [f"{route.prefix}: {why}" for route in routes if (why := problem(route.large_communities, config.cluster))]


def _told(config: Config, route: Route, own: IPv4Address) -> Advertisement | None:
    """An identity of another node of this cluster, allowed, and announced under the prefix that is its own."""
    said = decode(route.large_communities, config.cluster)
    if said is None or said.address == own:
        return None
    if not any(said.address in allowed for allowed in config.members.allow):
        return None
    if route.prefix != f"{identity_address(config, said.address)}/32":
        return None
    shares = {
        number: Share(service.nominal, service.effective, State(service.state), service.announced)
        for number, service in said.services.items()
    }
    # An IPv6 address outside members.allow is not believed: tunnels from it would not be opened either.
    believed = any(said.address6 in allowed for allowed in config.members.allow) if said.address6 else False
    address6 = said.address6 if believed else None
    return Advertisement(said.address, said.epoch, shares, address6, said.version, said.epochs)
