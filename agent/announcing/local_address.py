# SPDX-License-Identifier: Apache-2.0
"""The addresses from which this node speaks BGP. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from agent.address import Address
from agent.config.bgp import PeerConfig


@dataclass(frozen=True, slots=True)
class LocalAddresses:
    """This node's address, its IPv6 address, and a link-local one for each interface that has a BGP session."""

    address: IPv4Address
    address6: IPv6Address | None = None
    link_local: Mapping[str, IPv6Address] = field(default_factory=dict)

    def for_peer(self, peer: PeerConfig) -> Address | None:
        """Return the local address of the session with a peer; None if this node has none of that kind."""
        if peer.source is not None:
            return peer.source
        if peer.interface is not None:
            return self.link_local.get(peer.interface)
        return self.address if peer.address.version == 4 else self.address6
