# SPDX-License-Identifier: Apache-2.0
"""From a node's configuration to what its router must know: the router's side of bgp.peers. Pure.

Owns the turn of the point of view; what a router's configuration looks like is bgp/router's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from agent.address import Address
from agent.announcing.speaker_config import LocalAddresses
from agent.config.bgp import PeerConfig
from agent.config.schema import Config
from agent.errors import AgentError
from bgp.bfd.config import BfdTimers
from bgp.router.facts import Neighbor, Router, SessionSettings


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """An address that a node speaks BGP from, and the node's AS if it is not that of the configuration.

    A link-local one carries the interface by which the router reaches it: fe80::11%eth1.
    """

    name: str
    address: Address
    asn: int | None = None

    @staticmethod
    def of(name: str | None, address: Address, asn: int | None = None) -> NodeAddress:
        """With a name that every router takes: the node's IPv6 session has one of its own."""
        own = name and (f"{name}_v6" if address.version == 6 else name)
        return NodeAddress(own or "node_" + re.sub(r"[^0-9a-z]+", "_", str(address)).strip("_"), address, asn)


def routers_of(peers: Sequence[PeerConfig]) -> list[list[PeerConfig]]:
    """Which of bgp.peers are one router, in the order of the file.

    A guess, for want of a word for it in lb.yml: of as many IPv4 as IPv6 addresses of one AS the first two are one
    router, and so on. Where their numbers differ each address is a router.
    """
    routers = []
    for asn in dict.fromkeys(peer.asn for peer in peers):
        of_as = [peer for peer in peers if peer.asn == asn]
        v4, v6 = ([peer for peer in of_as if peer.address.version == version] for version in (4, 6))
        routers += [list(pair) for pair in zip(v4, v6, strict=True)] if len(v4) == len(v6) else [[p] for p in of_as]
    return routers


def own_nodes(peers: Sequence[PeerConfig], ends: LocalAddresses) -> list[NodeAddress]:
    """This node, by each address from which it speaks with the router. Raises AgentError if the router needs more."""
    found: dict[Address, None] = {}
    for peer in peers:
        end = ends.towards(peer)
        if end is not None and end.is_link_local:
            given = f"--node {end}%INTERFACE"
            raise AgentError(f"bgp.peers: {peer.address}: which interface of the router is it? Say it with {given}")
        if end is not None:
            found[end] = None
    return [NodeAddress.of(None, address) for address in found]


def router_config(
    config: Config,
    peers: Sequence[PeerConfig],
    nodes: Sequence[NodeAddress],
    router_id: IPv4Address | None = None,
    log: str | None = None,
    made_by: str = "",
) -> Router:
    """What the one router that is known by the addresses of `peers` must know of `nodes`.

    A node speaks with each address of the router from its own of the same kind. Raises AgentError when the peers
    cannot be one router, or no node has an address for one.
    """
    asn = peers[0].asn
    if any(peer.asn != asn for peer in peers):
        said = ", ".join(f"{peer.address} AS {peer.asn}" for peer in peers)
        raise AgentError(f"bgp.peers: {said}: these cannot be one router; ask for one at a time with --peer")
    neighbors = [_neighbor(config, peer, node) for peer in peers for node in nodes if _speak(peer, node)]
    for peer in peers:
        if not any(_speak(peer, node) for node in nodes):
            raise AgentError(f"bgp.peers: {peer.address}: no node has an address of its kind; give one with --node")
    if router_id is None:
        known = [peer.address for peer in peers if isinstance(peer.address, IPv4Address)]
        if not known:
            raise AgentError(f"bgp.peers: {peers[0].address}: the router has no IPv4 address here; give --router-id")
        router_id = known[0]
    # Twice what a node has, so that a new VIP is not a fault.
    limit = max(16, 2 * (len(config.vips) + 1))
    return Router(
        asn, router_id, tuple(neighbors), config.allowed, config.bgp.identity_prefix, limit, log=log, made_by=made_by
    )


def _speak(peer: PeerConfig, node: NodeAddress) -> bool:
    same_family = peer.address.version == node.address.version
    return same_family and peer.address.is_link_local == node.address.is_link_local


def _neighbor(config: Config, peer: PeerConfig, node: NodeAddress) -> Neighbor:
    asn = node.asn or peer.local_as or config.bgp.local_as
    session = SessionSettings(
        local=ip_address(peer.name),
        families=peer.carries,
        internal=asn == peer.asn,
        hold_time_s=peer.hold_time_s,
        passive=not peer.passive,
        ttl_security=peer.ttl_security,
        multihop=peer.multihop,
        password_file=str(peer.password_file) if peer.password_file else None,
        bfd=BfdTimers(peer.bfd.interval_ms, peer.bfd.multiplier) if peer.bfd else None,
    )
    interface = node.address.scope_id if isinstance(node.address, IPv6Address) else None
    bare = ip_address(str(node.address).partition("%")[0])
    return Neighbor(node.name, bare, asn, session, interface)
