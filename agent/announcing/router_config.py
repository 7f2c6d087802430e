# SPDX-License-Identifier: Apache-2.0
"""The router's end of bgp.peers, from a node's configuration. Pure.

Owns which neighbors a router needs, with which settings; the text of each router's configuration is bgp/router's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

from agent.address import Address
from agent.announcing.local_address import LocalAddresses
from agent.config.bgp import PeerConfig
from agent.config.schema import Config
from agent.errors import AgentError
from agent.membership.identity import identity_address
from bgp.bfd.config import BfdTimers
from bgp.router.facts import Neighbor, Router, SessionSettings


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """An address from which a node speaks BGP, and the node's AS if it differs from the configuration.

    A link-local address has the zone of the router's interface: fe80::11%eth1. `node`: the node's own address, from
    which its identity follows; None if it is not known.
    """

    name: str
    address: Address
    asn: int | None = None
    node: IPv4Address | None = None

    @staticmethod
    def of(name: str | None, address: Address, asn: int | None = None, node: IPv4Address | None = None) -> NodeAddress:
        """Return it with a name that every router accepts; a node's IPv6 session has its own.

        An IPv4 address is taken for the node's own unless `node` is given.
        """
        unique = name and (f"{name}_v6" if address.version == 6 else name)
        if node is None and isinstance(address, IPv4Address):
            node = address
        unique = unique or "node_" + re.sub(r"[^0-9a-z]+", "_", str(address)).strip("_")
        return NodeAddress(unique, address, asn, node)


def routers_of(peers: Sequence[PeerConfig]) -> list[list[PeerConfig]]:
    """Return bgp.peers grouped by router, in the order of the file.

    A guess, because lb.yml does not say: if an AS has as many IPv4 as IPv6 addresses, they are paired in order.
    Otherwise each address is a router.
    """
    routers = []
    for asn in dict.fromkeys(peer.asn for peer in peers):
        of_as = [peer for peer in peers if peer.asn == asn]
        v4, v6 = ([peer for peer in of_as if peer.address.version == version] for version in (4, 6))
        routers += [list(pair) for pair in zip(v4, v6, strict=True)] if len(v4) == len(v6) else [[p] for p in of_as]
    return routers


def own_addresses(peers: Sequence[PeerConfig], local: LocalAddresses) -> list[NodeAddress]:
    """Return each address from which this node speaks BGP with a router.

    Raises AgentError for a link-local one: only the operator knows the router's interface.
    """
    found: dict[Address, None] = {}
    for peer in peers:
        address = local.for_peer(peer)
        if address is not None and address.is_link_local:
            option = f"--node {address}%INTERFACE"
            raise AgentError(f"bgp.peers: {peer.address}: which interface of the router is it? Give it with {option}")
        if address is not None:
            found[address] = None
    return [NodeAddress.of(None, address, node=local.address) for address in found]


def router_config(
    config: Config,
    peers: Sequence[PeerConfig],
    nodes: Sequence[NodeAddress],
    router_id: IPv4Address | None = None,
    log: str | None = None,
    made_by: str = "",
) -> Router:
    """Return the configuration of one router, whose addresses are `peers`, for its sessions with `nodes`.

    A node uses an address of the same family and scope as the router's. Raises AgentError when the peers cannot be one
    router, or no node has an address for one.
    """
    asn = peers[0].asn
    if any(peer.asn != asn for peer in peers):
        listed = ", ".join(f"{peer.address} AS {peer.asn}" for peer in peers)
        raise AgentError(f"bgp.peers: {listed}: these cannot be one router; choose one with --peer")
    neighbors = [_neighbor(config, peer, node) for peer in peers for node in nodes if _same_kind(peer, node)]
    for peer in peers:
        if not any(_same_kind(peer, node) for node in nodes):
            kind = "link-local" if peer.address.is_link_local else f"IPv{peer.address.version}"
            raise AgentError(f"bgp.peers: {peer.address}: no node has an address of its kind ({kind}); give --node")
    if router_id is None:
        known = [peer.address for peer in peers if isinstance(peer.address, IPv4Address)]
        if not known:
            raise AgentError(f"bgp.peers: {peers[0].address}: the router has no IPv4 address here; give --router-id")
        router_id = known[0]
    # Twice the routes of a node (its VIPs, the pool and its identity), so that new VIPs do not exceed the limit.
    limit = max(16, 2 * (len(config.vips) + len(config.pool_prefixes) + 1))
    return Router(
        asn,
        router_id,
        tuple(neighbors),
        config.allowed,
        config.bgp.identity_prefix,
        limit,
        log=log,
        made_by=made_by,
        pools=config.pool_prefixes,
    )


def _same_kind(peer: PeerConfig, node: NodeAddress) -> bool:
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
    identity = None
    if "ipv4" in session.families:
        if node.node is None:
            option = f"--node {node.name.removesuffix('_v6')}={node.address},NODE-ADDRESS"
            raise AgentError(f"{node.address}: which node's is it? The router accepts its identity alone: {option}")
        identity = IPv4Network(identity_address(config, node.node))
    interface = node.address.scope_id if isinstance(node.address, IPv6Address) else None
    bare = ip_address(str(node.address).partition("%")[0])
    return Neighbor(node.name, bare, asn, session, identity, interface)
