# SPDX-License-Identifier: Apache-2.0
"""A neighbor, which is an address on a link with its MAC. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from agent.address import Address

_IP_FAMILIES: Final = (2, 10)
"""AF_INET and AF_INET6: bridges have neighbors too, of AF_BRIDGE."""


@dataclass(frozen=True, slots=True)
class NeighborEntry:
    """A resolved neighbor."""

    address: Address
    ifindex: int
    mac: bytes


def neighbor_from(message: Any) -> NeighborEntry | None:
    """Return the neighbor that an RTM_NEWNEIGH message describes; None if it has no MAC.

    A failed neighbor has none, so whoever reads the messages keeps its last MAC.
    """
    mac, destination = message.get("lladdr"), message.get("dst")
    if message["family"] not in _IP_FAMILIES or not mac or not destination:
        return None
    raw = bytes.fromhex(mac.replace(":", ""))
    return NeighborEntry(ip_address(destination), message["ifindex"], raw) if len(raw) == 6 and any(raw) else None
