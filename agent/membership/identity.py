# SPDX-License-Identifier: Apache-2.0
"""This node's identity as a route, and where any node's identity is announced. Pure.

Received identities are received.py's, the wire format is bgp/community.py's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from agent.address import tag_of
from agent.config.schema import Config
from agent.config.service import ServiceConfig
from agent.model import Member, Share, State
from bgp.community import Identity, ServiceState, encode, service_id
from bgp.route import Route


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


def announces(member: Member) -> bool:
    """Whether a member announces a VIP: no relay withdraws its VIPs while it receives fewer than half of those that do
    (bgp/relay/quorum.py)."""
    return not member.lost and any(share.announced for share in member.shares.values())
