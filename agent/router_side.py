# SPDX-License-Identifier: Apache-2.0
"""From a node's configuration to what its router must know: the router's side of bgp.peers. Pure.

Owns the turn of the point of view; what a router's configuration looks like is bgp/router's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network

from agent.config import Config
from agent.config_bgp import PeerConfig
from agent.errors import AgentError
from agent.model import Address
from bgp.router.facts import Neighbor, Router, Session


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """An address that a node speaks BGP from, and the node's AS if it is not that of the configuration."""

    name: str
    address: Address
    asn: int | None = None


def router_side(
    config: Config,
    peers: Sequence[PeerConfig],
    nodes: Sequence[NodeAddress],
    router_id: IPv4Address | None = None,
    log: str | None = None,
    made_by: str = "",
) -> Router:
    """What the one router that is known by the addresses of `peers` must know of `nodes`.

    A node speaks with each address of the router from its own of the same family. Raises AgentError when the peers
    cannot be one router, or a node has no address for one.
    """
    asn = peers[0].asn
    if any(peer.asn != asn for peer in peers):
        said = ", ".join(f"{peer.address} AS {peer.asn}" for peer in peers)
        raise AgentError(f"bgp.peers: {said}: these cannot be one router; ask for one at a time with --peer")
    neighbors = [_neighbor(config, peer, node, asn) for peer in peers for node in nodes if _same_family(peer, node)]
    for peer in peers:
        if not any(_same_family(peer, node) for node in nodes):
            raise AgentError(f"bgp.peers: {peer.address}: no node has an address of its family; give one with --node")
    if router_id is None:
        known = [peer.address for peer in peers if isinstance(peer.address, IPv4Address)]
        if not known:
            raise AgentError(f"bgp.peers: {peers[0].address}: the router has no IPv4 address here; give --router-id")
        router_id = known[0]
    vips = tuple(ip_network(vip) for vip in config.vips)
    return Router(asn, router_id, tuple(neighbors), vips, config.bgp.identity_prefix, log, made_by)


def _same_family(peer: PeerConfig, node: NodeAddress) -> bool:
    return peer.address.version == node.address.version


def _neighbor(config: Config, peer: PeerConfig, node: NodeAddress, asn: int) -> Neighbor:
    own = node.asn or peer.local_as or config.bgp.local_as
    session = Session(
        local=peer.address,
        families=peer.carries,
        internal=own == asn,
        hold_time_s=peer.hold_time_s,
        passive=not peer.passive,
        ttl_security=peer.ttl_security,
        multihop=peer.multihop or 0,
        password_file=str(peer.password_file) if peer.password_file else None,
    )
    return Neighbor(node.name, node.address, own, session)
