# SPDX-License-Identifier: Apache-2.0
"""Tunnels, for the packet oracle: which outer headers a node accepts, and which ones it writes.

IPIP is RFC 2003, 2473 and 4213; GUE is variant 1 of the Internet-Draft (the IP packet follows UDP directly). The hop is
in the outer IPv4 ID or in the low four bits of the outer IPv6 flow label.
"""

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from support.oracle.headers import Address, header
from support.oracle.next_hop import COLLECT_HOP_MAX, GRACED

GUE_PORT = 6080
IN_IP = {4: 4, 6: 41}
"""Protocol numbers of an IPv4 and of an IPv6 packet inside IP."""


@dataclass(frozen=True)
class Opened:
    """What a tunnel carried: `inner` is the packet, `behind` the packet with all that follows it in the frame."""

    family: int
    inner: bytes
    behind: bytes
    hop: int
    """With GRACED."""
    sender: Address


@dataclass(frozen=True)
class Outer:
    """The outer header of a packet: its ends, its kind (`gue` or not) and what it takes from the packet."""

    src: Address
    dst: Address
    gue: bool
    hop: int
    flow_hash: int
    traffic_class: int

    @property
    def overhead(self) -> int:
        return {4: 20, 6: 40}[self.src.version] + 8 * self.gue


def is_tunnel(family: int, packet: bytes) -> bool:
    """Whether a packet to this node claims to be a tunnel's. After IPv4 options, UDP does not count."""
    ip = header(IP, packet, 20) if family == 4 else header(IPv6, packet, 40)
    if ip is None:
        return False
    if family == 4:
        protocol, behind = ip.proto, packet[20 : ip.len] if ip.ihl == 5 and not ip.frag else b""
    else:
        protocol, behind = ip.nh, packet[40 : 40 + ip.plen]
    udp = header(UDP, behind, 8)
    return protocol in IN_IP.values() or (protocol == 17 and udp is not None and udp.dport == GUE_PORT)


def open_tunnel(family: int, packet: bytes, prefixes: Collection[IPv4Network | IPv6Network]) -> Opened | None:
    """Remove the outer header of a packet to this node; None unless a node of the cluster can have written it."""
    if family == 4:
        ip = header(IP, packet, 20)
        if (
            ip is None
            or (ip.version, ip.ihl, int(ip.flags), ip.frag) != (4, 5, 2, 0)
            or not 20 <= ip.len <= len(packet)
        ):
            return None
        start, end, protocol, hop = 20, ip.len, ip.proto, ip.id
    else:
        ip = header(IPv6, packet, 40)
        if ip is None or ip.version != 6 or 40 + ip.plen > len(packet):
            return None
        start, end, protocol, hop = 40, 40 + ip.plen, ip.nh, ip.fl & 0x1F
    source = ip_address(ip.src)
    if (
        not 1 <= hop & ~GRACED <= COLLECT_HOP_MAX
        or ip.src == ip.dst
        or not any(source in prefix for prefix in prefixes)
    ):
        return None
    if protocol == 17:
        udp = header(UDP, packet[start:end], 8)
        if udp is None or (udp.dport, udp.chksum, udp.len) != (GUE_PORT, 0, end - start):
            return None
        start += 8
    inner = packet[start:end]
    version = inner[0] >> 4 if inner else 0
    if version not in IN_IP or protocol not in (17, IN_IP[version]):
        return None
    return Opened(version, inner, packet[start:], hop, source)


def outer_header(outer: Outer, family: int, length: int) -> bytes:
    """Return the outer headers of a packet of `length` bytes."""
    protocol, udp = IN_IP[family], b""
    if outer.gue:
        protocol = 17
        length += 8
        udp = bytes(UDP(sport=49152 + outer.flow_hash % 16384, dport=GUE_PORT, len=length, chksum=0))
    dscp = outer.traffic_class & 0xFC
    ends = {"src": str(outer.src), "dst": str(outer.dst)}
    if outer.src.version == 4:
        ip = IP(tos=dscp, len=20 + length, id=outer.hop, flags="DF", ttl=64, proto=protocol, **ends)
    else:
        label = (outer.flow_hash & 0x7FFF) << 5 | outer.hop
        ip = IPv6(tc=dscp, fl=label, plen=length, nh=protocol, hlim=64, **ends)
    return bytes(ip) + udp
