# SPDX-License-Identifier: Apache-2.0
"""An entry of the node table: `struct node`."""

from dataclasses import dataclass
from enum import IntFlag
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from bpf.layout.address import pack_address
from bpf.layout.c_struct import CStruct

NODE_STRUCT: Final = CStruct(
    "node",
    (
        ("mac", "6s"),
        ("tag", "H"),
        ("address", "4s"),
        ("flags", "I"),
        ("ifindex", "I"),
        ("source", "6s"),
        ("vlan", "H"),
        ("mtu", "H"),
        ("pad", "2x"),
        ("address6", "16s"),
        ("drop_until", "Q"),
    ),
)


class NodeFlag(IntFlag):
    """The flags of an entry; lb.h defines each."""

    HAS_MAC = 1
    ON_LINK = 2
    OUTER_6 = 4
    SILENT = 8


@dataclass(frozen=True)
class NodeEntry:
    """A node as a next hop: its addresses and the route to it.

    `mac` is the node's own if it is `on_link`, else that of the router on the route (`forward: l2` cannot reach it
    then). It is None until a MAC was known once; then the last known one stays. Tunnels go to `address`, or with
    `outer6` to `address6`. `ifindex` is the interface to leave by and `source` that interface's MAC; 0 and None mean
    the interface that the packet came by. `vlan` (0: none) is the tag of frames that carry tunnels. `mtu` is the
    route's, in bytes of an IP packet. A `silent` node does not answer; every row passes it over. Until `drop_until_ns`
    (CLOCK_MONOTONIC; 0: no longer) what may be its connection is dropped rather than reset; a doubted node, which other
    nodes pass over, has that alone.
    """

    address: IPv4Address
    tag: int
    mac: bytes | None
    on_link: bool = True
    address6: IPv6Address | None = None
    outer6: bool = False
    ifindex: int = 0
    source: bytes | None = None
    vlan: int = 0
    mtu: int = 1500
    silent: bool = False
    drop_until_ns: int = 0

    def pack(self) -> bytes:
        """Encode as `struct node`."""
        if self.outer6 and self.address6 is None:
            raise ValueError(f"node {self.address}: outer6 wants an address6")
        flags = (self.mac is not None) * NodeFlag.HAS_MAC
        flags |= self.on_link * NodeFlag.ON_LINK | self.outer6 * NodeFlag.OUTER_6 | self.silent * NodeFlag.SILENT
        return NODE_STRUCT.codec.pack(
            self.mac or bytes(6), self.tag, self.address.packed, flags, self.ifindex, self.source or bytes(6),
            self.vlan, min(self.mtu, 0xFFFF), pack_address(self.address6), self.drop_until_ns,
        )  # fmt: skip

    @classmethod
    def unpack(cls, data: bytes) -> "NodeEntry | None":
        """Decode `struct node`; None if the place is free."""
        mac, tag, address, flags, ifindex, source, vlan, mtu, address6, drop_until = NODE_STRUCT.codec.unpack(data)
        if address == bytes(4):
            return None
        return cls(
            IPv4Address(address), tag, mac if flags & NodeFlag.HAS_MAC else None, bool(flags & NodeFlag.ON_LINK),
            IPv6Address(address6) if any(address6) else None, bool(flags & NodeFlag.OUTER_6), ifindex,
            source if any(source) else None, vlan, mtu, bool(flags & NodeFlag.SILENT), drop_until,
        )  # fmt: skip
