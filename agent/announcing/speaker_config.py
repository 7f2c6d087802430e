# SPDX-License-Identifier: Apache-2.0
"""ExaBGP's sessions, and the prefixes that they may announce, from lb.yml and this node's addresses. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, ip_address

from agent.announcing.local_address import LocalAddresses
from agent.config.bgp import PeerConfig
from agent.config.schema import Config
from agent.errors import SettingError
from agent.membership.identity import identity_address
from bgp.bfd.config import BfdTimers
from bgp.exabgp.config import NeighborConfig, SpeakerConfig


def speaker_config(config: Config, local: LocalAddresses, passwords: Mapping[str, bytes]) -> SpeakerConfig:
    """Return ExaBGP's configuration; `passwords` by `PeerConfig.name`. Raises SettingError for a peer without a local
    address."""
    own = IPv4Network(identity_address(config, local.address))
    return SpeakerConfig(
        config.bgp.local_as,
        config.bgp.router_id or local.address,
        tuple(_session(i, peer, local, passwords) for i, peer in enumerate(config.bgp.peers)),
        config.bgp.user,
        allow=(own, *config.allowed),
        exactly=config.pool_prefixes,
        learn=(config.bgp.identity_prefix,),
    )


def _session(i: int, peer: PeerConfig, local: LocalAddresses, passwords: Mapping[str, bytes]) -> NeighborConfig:
    address = local.for_peer(peer)
    if address is None:
        missing = f"{peer.interface} has no link-local" if peer.interface else "the node's interface has no IPv6"
        problem = f"{missing} address to reach {peer.address} from; add one or set source"
        raise SettingError(f"bgp.peers[{i}]", problem)
    return NeighborConfig(
        ip_address(peer.name),
        peer.asn,
        address,
        peer.hold_time_s,
        local_as=peer.local_as,
        families=peer.carries,
        password=passwords.get(peer.name),
        ttl_security=peer.ttl_security,
        multihop=peer.multihop,
        passive=peer.passive,
        interface=peer.interface,
        graceful_restart_s=peer.graceful_restart_s,
        bfd=BfdTimers(**peer.bfd.model_dump()) if peer.bfd else None,
    )
