# SPDX-License-Identifier: Apache-2.0
"""IP addresses as the whole agent uses them: their types, their text with a port, and a node's tag. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Announced = Address | Network
"""What a node announces to routers: a VIP, or a pool of NAT."""


class NodeAddress(IPv4Address):
    """A node's address as received. Equal to the IPv4Address; its hash is computed once, which is half of the work of
    1,000 nodes otherwise: ipaddress makes a text of the number each time."""

    __slots__ = ("_hash",)

    def __init__(self, address: IPv4Address) -> None:
        super().__init__(int(address))
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


def endpoint(address: Address, port: int | str) -> str:
    """Return address and port as one text: `192.0.2.1:443`, `[2001:db8::1]:443`."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def tag_of(address: IPv4Address) -> int:
    """Return a node's 16-bit tag: the low bits of its address."""
    return int(address) & 0xFFFF
