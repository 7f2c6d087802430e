# SPDX-License-Identifier: Apache-2.0
"""This node's identity as a route, and where any node's identity is announced. Pure.

Received identities are received.py's, the wire format is bgp/community.py's.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from agent.address import Address, tag_of
from agent.config.schema import Config
from agent.membership.digest import vip_digest
from agent.model import Member
from bgp.community import Identity, encode
from bgp.route import Route


def identity_address(config: Config, address: IPv4Address) -> IPv4Address:
    """Return a node's address in bgp.identity_prefix: not its on-link one, which routers must not learn by BGP."""
    return config.bgp.identity_prefix.network_address + tag_of(address)


def node_prefix(config: Config, address: IPv4Address) -> str:
    """Return the /32 under which a node announces its identity."""
    return f"{identity_address(config, address)}/32"


def identity_route(
    config: Config, address: IPv4Address, address6: IPv6Address | None, start: int, vips: Iterable[Address] = ()
) -> Route:
    """Return the route that carries this node's identity; `start` as in `Identity`, `vips`: those that it announces."""
    announces = min(map(vip_digest, vips), default=0)
    identity = Identity(config.cluster, address, address6, start, announces)
    return Route.of(node_prefix(config, address), str(address), encode(identity), next_hop_self=True)


def announces(member: Member) -> bool:
    """Whether a member announces a VIP: no relay withdraws its VIPs while it receives fewer than half of those that do
    (bgp/relay/quorum.py)."""
    return not member.lost and any(share.announced for share in member.shares.values())
