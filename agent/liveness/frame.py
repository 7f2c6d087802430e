# SPDX-License-Identifier: Apache-2.0
"""The Ethernet frame of a question: as the program writes the frames of packets that it forwards. Pure.

    plain   Ethernet [VLAN] | IP | UDP, port to port | echo
    ipip    Ethernet [VLAN] | outer IP with hop 1 | IP | UDP | echo
    gue     Ethernet [VLAN] | outer IP with hop 1 | UDP, port 6080 | IP | UDP | echo
    marker  the plain one, from MAC 02:4c:42:01:TT:TT (TT:TT: this node's tag)

Inner and outer addresses are the same. bpf/src/decap.h defines the hop of an outer header, ethernet.h the marker.
UDP over IPv4 has no checksum, as between two programs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol

from agent.address import Address
from agent.liveness.question import Via

GUE_PORT = 6080
GUE_FIRST_SOURCE = 49152
HOP = 1
_ETH_IPV4, _ETH_IPV6, _ETH_VLAN = 0x0800, 0x86DD, 0x8100
_UDP, _IPIP, _IPV6 = 17, 4, 41
_DONT_FRAGMENT = 0x4000
_TTL = 64


class Hop(Protocol):
    """A next hop, as agent/forwarding/next_hop.py defines it."""

    @property
    def mac(self) -> bytes | None:
        """The MAC of the next machine."""

    @property
    def on_link(self) -> bool:
        """Whether that machine is the node itself."""

    @property
    def ifindex(self) -> int:
        """The interface to leave by; 0: the one that packets arrive on."""

    @property
    def source(self) -> bytes | None:
        """That interface's MAC."""

    @property
    def vlan(self) -> int:
        """The VLAN tag; 0: none."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Source and destination of an echo, of one family, and the UDP port of both."""

    source: Address
    destination: Address
    port: int


@dataclass(frozen=True, slots=True)
class LinkHeader:
    """Destination and source MAC of a frame, and its VLAN tag (0: none)."""

    destination: bytes
    source: bytes
    vlan: int = 0


def question_frame(payload: bytes, via: Via, ends: Endpoints, link: LinkHeader, tag: int, entropy: int) -> bytes:
    """Return the frame of a question. `tag` is this node's; `entropy` chooses the source port of a tunnel by UDP."""
    packet = _ip(ends, _UDP, _udp(payload, ends))
    if via is Via.IPIP:
        packet = _ip(ends, _IPIP if ends.source.version == 4 else _IPV6, packet, HOP)
    elif via is Via.GUE:
        packet = _ip(ends, _UDP, _udp_header(GUE_FIRST_SOURCE + entropy % 0x4000, GUE_PORT, len(packet)) + packet, HOP)
    source = marker(tag) if via is Via.MARKER else link.source
    vlan = struct.pack("!HH", _ETH_VLAN, link.vlan) if link.vlan else b""
    ethertype = _ETH_IPV4 if ends.source.version == 4 else _ETH_IPV6
    return link.destination + source + vlan + struct.pack("!H", ethertype) + packet


def marker(tag: int) -> bytes:
    """Return the source MAC of a packet that this node forwards for the first time."""
    return struct.pack("!3sBH", b"\x02LB", HOP, tag)


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def _udp_header(source: int, destination: int, length: int, check: int = 0) -> bytes:
    return struct.pack("!HHHH", source, destination, 8 + length, check)


def _udp(payload: bytes, ends: Endpoints) -> bytes:
    """Over IPv6 a checksum is required, and a sum of 0 is sent as 0xffff (RFC 8200 section 8.1)."""
    bare = _udp_header(ends.port, ends.port, len(payload)) + payload
    if ends.source.version == 4:
        return bare
    pseudo = ends.source.packed + ends.destination.packed + struct.pack("!II", len(bare), _UDP)
    return _udp_header(ends.port, ends.port, len(payload), checksum(pseudo + bare) or 0xFFFF) + payload


def _ip(ends: Endpoints, protocol: int, payload: bytes, hop: int = 0) -> bytes:
    source, destination = ends.source.packed, ends.destination.packed
    if ends.source.version == 6:
        return struct.pack("!IHBB", 6 << 28 | hop, len(payload), protocol, _TTL) + source + destination + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), hop, _DONT_FRAGMENT, _TTL, protocol, 0)
    head += source + destination
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload
