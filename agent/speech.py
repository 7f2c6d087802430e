# SPDX-License-Identifier: Apache-2.0
"""Between the agent's words and BGP's: routes to announce from a condition, reports from what the relay heard. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from agent.announce import dressed
from agent.config import Config, ServiceConfig
from agent.hearing import PeerReport, Told
from agent.model import Address, Member, Method, Share, State, tag_of
from agent.version import Version
from bgp.bfd_file import BfdTimers
from bgp.community import Identity, ServiceState, decode, encode, problem, service_id
from bgp.route import Route
from bgp.snapshot import Snapshot
from bgp.speaker import PeerConfig, SpeakerConfig


def id_of(service: ServiceConfig) -> int:
    """The 28 bits that stand for a service in identities."""
    return service_id(service.vip, service.protocol, service.port_number)


def speaker_config(config: Config, address: IPv4Address) -> SpeakerConfig:
    """What ExaBGP on this node needs to know."""
    peers = tuple(
        PeerConfig(p.address, p.asn, address, p.hold_time_s, BfdTimers(**p.bfd.model_dump()) if p.bfd else None)
        for p in config.bgp.peers
    )
    return SpeakerConfig(config.bgp.local_as, config.bgp.router_id or address, peers, config.bgp.user)


def wish(
    config: Config,
    address: IPv4Address,
    epochs: Sequence[int],
    shares: Mapping[int, Share],
    vips: Mapping[Address, Method | None],
    address6: IPv6Address | None = None,
    version: Version | None = None,
) -> tuple[list[Route], list[Route]]:
    """(what to announce, what to announce instead when this agent falls silent). `vips` says how each is drained.

    The fallback is the identity alone, draining: a dead agent no longer draws flows, and is still known as the owner
    of those it has. Its version is above the live one, and below that of the agent's next word.
    """
    live = identity(config, address, epochs, shares, address6)
    silent = identity(config, address, epochs, silenced(shares), address6)
    if version is not None:
        live, silent = replace(live, version=version.number), replace(silent, version=version.fallback)
    own = [dressed(Route.of(f"{vip}/32", str(address)), method) for vip, method in vips.items() if vip.version == 4]
    return [_route(config, live), *own], [_route(config, silent)]


def silenced(shares: Mapping[int, Share]) -> dict[int, Share]:
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
    return Route.of(f"{identity_address(config, said.address)}/32", str(said.address), encode(said))


def identity_address(config: Config, address: IPv4Address) -> IPv4Address:
    """The address that stands for a node in BGP: never its own on-link one, which routers must not learn from afar."""
    return config.bgp.identity_prefix.network_address + tag_of(address)


def announcers(config: Config, members: Iterable[Member]) -> tuple[str, ...]:
    """The identity prefixes of those that announce a VIP: while fewer than half of them remain, no relay withdraws."""
    return tuple(
        f"{identity_address(config, member.address)}/32"
        for member in members
        if not member.lost and any(share.announced for share in member.shares.values())
    )


def reports(config: Config, snapshot: Snapshot | None, connected: bool, own: IPv4Address) -> dict[str, PeerReport]:
    """What each configured peer tells of other nodes. All are down while the relay is away or has said nothing."""
    peers = {peer.address: peer for peer in snapshot.peers} if snapshot and connected else {}
    result = {}
    for configured in config.bgp.peers:
        peer = peers.get(str(configured.address))
        routes = peer.routes if peer and peer.up else ()
        heard = [told for route in routes if (told := _told(config, route, own))]
        result[str(configured.address)] = PeerReport(
            up=bool(peer and peer.up),
            told={told.address: told for told in heard},
            since=peer.since if peer else 0.0,
            eor=bool(peer and peer.eor),
        )
    return result


def reflections(config: Config, snapshot: Snapshot | None, own: IPv4Address) -> list[tuple[int, str]]:
    """(version, content) of this node's own identity as routers that are up tell it."""
    routes = [route for peer in snapshot.peers if peer.up for route in peer.routes] if snapshot else []
    heard = [decode(route.large_communities, config.cluster) for route in routes]
    return [(said.version, content(said)) for said in heard if said and said.address == own]


def problems(config: Config, snapshot: Snapshot | None) -> list[str]:
    """Identities of this cluster that cannot be read, a line each."""
    routes = [route for peer in snapshot.peers for route in peer.routes] if snapshot else []
    return [f"{route.prefix}: {why}" for route in routes if (why := problem(route.large_communities, config.cluster))]


def _told(config: Config, route: Route, own: IPv4Address) -> Told | None:
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
    return Told(said.address, said.epoch, shares, address6, said.version, said.epochs)
