# SPDX-License-Identifier: Apache-2.0
"""From lb.yml and this node's own addresses to the sessions that ExaBGP is to hold, and what they may tell. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

from agent.address import Address
from agent.config.bgp import PeerConfig
from agent.config.schema import Config
from agent.errors import AgentError
from agent.membership.identity import identity_address
from bgp.bfd.config import BfdTimers
from bgp.exabgp.config import NeighborConfig, SpeakerConfig


@dataclass(frozen=True, slots=True)
class LocalAddresses:
    """This node's ends of sessions: its address, its IPv6 address, and a link-local one by interface."""

    address: IPv4Address
    address6: IPv6Address | None = None
    link_local: Mapping[str, IPv6Address] = field(default_factory=dict)

    def towards(self, peer: PeerConfig) -> Address | None:
        """The end of a session; None if there is none of that kind."""
        if peer.source is not None:
            return peer.source
        if peer.interface is not None:
            return self.link_local.get(peer.interface)
        return self.address if peer.address.version == 4 else self.address6


def speaker_config(config: Config, here: LocalAddresses, passwords: Mapping[str, bytes]) -> SpeakerConfig:
    """What ExaBGP needs to know; `passwords` by `PeerConfig.name`. AgentError: a peer that has no end here."""
    own = IPv4Network(identity_address(config, here.address))
    return SpeakerConfig(
        config.bgp.local_as,
        config.bgp.router_id or here.address,
        tuple(_session(i, peer, here, passwords) for i, peer in enumerate(config.bgp.peers)),
        config.bgp.user,
        allow=(own, *config.allowed),
    )


def _session(i: int, peer: PeerConfig, here: LocalAddresses, passwords: Mapping[str, bytes]) -> NeighborConfig:
    end = here.towards(peer)
    if end is None:
        lacks = f"{peer.interface} has no link-local" if peer.interface else "the node's interface has no IPv6"
        raise AgentError(f"bgp.peers[{i}]: {lacks} address to reach {peer.address} from; give it one or set source")
    return NeighborConfig(
        ip_address(peer.name),
        peer.asn,
        end,
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
