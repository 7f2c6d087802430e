# SPDX-License-Identifier: Apache-2.0
"""Reads frames for the packet oracle with scapy's header definitions: what a packet is, and its flow.

Owns reading only. It reads headers one by one with their exact lengths, because it must read a hostile packet as
the RFCs define it, not as a lenient dissector guesses it: RFC 791, 792, 768, 8200, 4443, 9293, and IEEE 802.1Q.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeVar

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet

Address = IPv4Address | IPv6Address
Layer = TypeVar("Layer", bound=Packet)

ETHERTYPES = {0x0800: 4, 0x86DD: 6}
TAGS = {0x8100, 0x88A8}
ICMP_ERRORS = {4: {3, 11, 12}, 6: {1, 2, 3, 4}}
"""Unreachable, too big, time exceeded, parameter problem: they quote the packet that caused them."""
NEIGHBOR_DISCOVERY = {135, 136}
"""Neighbor solicitation and advertisement (RFC 4861)."""
HOP_BY_HOP, ROUTING, FRAGMENT_HEADER, DESTINATION = 0, 43, 44, 60
MAX_EXTENSIONS, MAX_QUOTED_EXTENSIONS = 6, 2
SERVED = {4: (6, 17, 1), 6: (6, 17, 58)}
"""TCP, UDP and ICMP; all else is another protocol, also behind IPv6's extension headers."""
EXTENSIONS = (HOP_BY_HOP, ROUTING, FRAGMENT_HEADER, DESTINATION)
UNKNOWN_PROTOCOL = -1
"""The protocol of a packet whose headers do not lead to one. (In IPv4, 0 is a number like others.)"""


class Kind(Enum):
    NO_FLOW = "to a VIP, but of no flow"
    FLOW = "of a flow"
    FRAGMENT = "without ports"
    MALFORMED_HEADER = "an IP header that contradicts itself"
    MALFORMED = "contradicts itself after the IP header"
    ICMP_FRAGMENT = "the first fragment of an ICMP error"
    IPV6_HEADERS = "extension headers that no client should send"
    OTHER_PROTOCOL = "neither TCP, UDP nor ICMP"


@dataclass(frozen=True)
class Link:
    """A frame up to its IP packet: `macs` and `tags` unmodified, `family` None for what is not IP.

    `vlans`: the identifiers in its tags.
    """

    dst: str
    src: str
    macs: bytes
    tags: bytes
    family: int | None
    rest: bytes
    vlans: tuple[int, ...] = ()


@dataclass(frozen=True)
class Flow:
    protocol: int
    client: Address
    client_port: int
    vip: Address
    vip_port: int


@dataclass(frozen=True)
class Reading:
    """An IP packet to `flow.vip` of `length` bytes; the flow's ports are 0 where there are none to read.

    `source` sent it (an ICMP error is not from the client). `any_source`: no range of sources is wrong for it; `later`:
    a fragment, but not the first; `ident`: its packet's number; `first`: what the first one shows, the client's port,
    the VIP's port, and whether it opens a flow (None: not the first, or its transport header is not whole);
    `traffic_class` is unmodified.
    """

    kind: Kind
    flow: Flow
    source: Address
    length: int
    traffic_class: int
    opens: bool = False
    error: bool = False
    later: bool = False
    any_source: bool = False
    ident: int = 0
    first: tuple[int, int, bool] | None = None


def header(layer: type[Layer], data: bytes, size: int) -> Layer | None:
    """Dissect exactly one header of `size` bytes, without options and payload; None if there is less.

    ICMP has fields for some types only, after the common ones: they read zeros.
    """
    if len(data) < size:
        return None
    return _dissect(layer, data[:size] + bytes(16) if layer is ICMP else data[:size])


@lru_cache(1024)
def _dissect(layer: type[Layer], data: bytes) -> Layer:
    """Scapy takes longest of all, and most variants of a frame have the same headers: what is returned is shared."""
    found = layer()
    found.do_dissect(data)
    return found


def link(frame: bytes) -> Link | None:
    """Read Ethernet and up to two VLAN tags."""
    ethernet = header(Ether, frame, 14)
    if ethernet is None:
        return None
    kind, at, vlans = ethernet.type, 14, []
    while kind in TAGS and at < 22 and (tag := header(Dot1Q, frame[at:], 4)):
        kind, at = tag.type, at + 4
        vlans.append(tag.vlan)
    family = ETHERTYPES.get(kind)
    return Link(ethernet.dst, ethernet.src, frame[:12], frame[12 : at - 2], family, frame[at:], tuple(vlans))


def marker(source: str) -> tuple[int, int]:
    """Return the hop and the sender's tag of 02:4c:42:HH:TT:TT; any other source is the router."""
    octets = [int(octet, 16) for octet in source.split(":")]
    if octets[:3] != [0x02, 0x4C, 0x42] or octets[3] == 0:
        return 0, 0
    return octets[3], octets[4] * 256 + octets[5]


def target(family: int, packet: bytes) -> Address | None:
    """Return the destination of an IP packet; None if that is cut off."""
    ip = header(IP, packet, 20) if family == 4 else header(IPv6, packet, 40)
    return None if ip is None else ip_address(ip.dst)


def ends(family: int, packet: bytes) -> tuple[Address, Address] | None:
    """Return source and destination of an IP packet; None if they are cut off."""
    ip = header(IP, packet, 20) if family == 4 else header(IPv6, packet, 40)
    return None if ip is None else (ip_address(ip.src), ip_address(ip.dst))


def read(family: int, packet: bytes, vips: Collection[Address]) -> Reading | None:
    """Read an IP packet, which padding may follow; None if it is not known to be to a VIP."""
    if target(family, packet) not in vips:
        return None
    return _ipv4(packet) if family == 4 else _ipv6(packet)


def _ipv4(packet: bytes) -> Reading:
    ip = header(IP, packet, 20)
    assert ip
    source, vip = IPv4Address(ip.src), IPv4Address(ip.dst)
    start = ip.ihl * 4
    as_is = Reading(Kind.NO_FLOW, Flow(ip.proto, source, 0, vip, 0), source, ip.len, ip.tos)
    if ip.version != 4 or start < 20 or not start <= ip.len <= len(packet):
        return _of(as_is, Kind.MALFORMED_HEADER)
    if ip.proto not in SERVED[4]:
        return _of(as_is, Kind.OTHER_PROTOCOL)
    if ip.frag or ip.flags.MF:
        if ip.proto == 1 and not ip.frag and _starts_error(4, packet[start : ip.len]):
            return _of(as_is, Kind.ICMP_FRAGMENT)
        return _fragment(as_is, ip.id, ip.frag, packet[start : ip.len])
    if ip.proto == 1:
        reading = _icmp(as_is, 4, packet[start : ip.len])
        return replace(reading, any_source=reading.error)
    return _transport(as_is, packet[start : ip.len])


def _ipv6(packet: bytes) -> Reading:
    ip = header(IPv6, packet, 40)
    assert ip
    source, vip = IPv6Address(ip.src), IPv6Address(ip.dst)
    length = 40 + ip.plen
    as_is = Reading(Kind.NO_FLOW, Flow(UNKNOWN_PROTOCOL, source, 0, vip, 0), source, length, ip.tc)
    if ip.version != 6 or not ip.plen or length > len(packet):
        return _of(as_is, Kind.MALFORMED_HEADER)
    kind, protocol, payload = _extensions(ip.nh, packet[40:length], MAX_EXTENSIONS)
    if kind is Kind.FRAGMENT:
        fragment = header(IPv6ExtHdrFragment, payload, 8)
        assert fragment
        if fragment.nh not in SERVED[6]:
            return _of(as_is, Kind.IPV6_HEADERS if fragment.nh in EXTENSIONS else Kind.OTHER_PROTOCOL)
        if fragment.nh == 58 and not fragment.offset and _starts_error(6, payload[8:]):
            return _of(as_is, Kind.ICMP_FRAGMENT)
        as_is = _of(as_is, kind, protocol=fragment.nh)
        return _fragment(as_is, fragment.id, fragment.offset, payload[8:])
    if kind is not Kind.NO_FLOW:
        return _of(as_is, kind)
    as_is = _of(as_is, Kind.NO_FLOW, protocol=protocol)
    if protocol == 58:
        reading = _icmp(as_is, 6, payload)
        direct = ip.nh == 58 and len(payload) >= 8
        return replace(reading, any_source=direct and (reading.error or payload[0] in NEIGHBOR_DISCOVERY))
    return _transport(as_is, payload)


def _extensions(protocol: int, payload: bytes, most: int) -> tuple[Kind, int, bytes]:
    """Skip IPv6's extension headers: NO_FLOW if TCP, UDP or ICMPv6 follows; FRAGMENT stops before its header.

    An atomic fragment (RFC 6946) is a whole packet; a routing header without segments left has no effect.
    """
    for _ in range(most):
        if protocol not in EXTENSIONS:
            break
        size = 8 if protocol == FRAGMENT_HEADER or len(payload) < 2 else (payload[1] + 1) * 8
        if len(payload) < 8:
            return Kind.MALFORMED, 0, b""
        if protocol == ROUTING and payload[3]:
            return Kind.IPV6_HEADERS, 0, b""
        if len(payload) < size:
            return Kind.MALFORMED, 0, b""
        if protocol == FRAGMENT_HEADER:
            fragment = header(IPv6ExtHdrFragment, payload, 8)
            assert fragment
            if fragment.offset or fragment.m:
                return Kind.FRAGMENT, protocol, payload
        protocol, payload = payload[0], payload[size:]
    if protocol in SERVED[6]:
        return Kind.NO_FLOW, protocol, payload
    return (Kind.IPV6_HEADERS if protocol in EXTENSIONS else Kind.OTHER_PROTOCOL), protocol, payload


def _of(
    reading: Reading, kind: Kind, *, protocol: int | None = None, ports: tuple[int, int] = (0, 0),
    client: Address | None = None, opens: bool = False, error: bool = False,
) -> Reading:  # fmt: skip
    """Return the reading of the same packet with more fields. `ports`: the client's, the VIP's."""
    flow = reading.flow
    protocol = flow.protocol if protocol is None else protocol
    flow = Flow(protocol, client or flow.client, ports[0], flow.vip, ports[1])
    return Reading(kind, flow, reading.source, reading.length, reading.traffic_class, opens, error)


def _fragment(packet: Reading, ident: int, offset: int, payload: bytes) -> Reading:
    """Read a fragment. In the first one of a packet, its transport header must be whole (RFC 1858, RFC 7112)."""
    tcp = header(TCP, payload, 20) if packet.flow.protocol == 6 else None
    udp = header(UDP, payload, 8) if packet.flow.protocol == 17 else None
    first = None
    if tcp and not offset:
        first = (tcp.sport, tcp.dport, bool(tcp.flags.S) and not tcp.flags.A)
    elif udp and not offset:
        first = (udp.sport, udp.dport, True)
    return replace(packet, kind=Kind.FRAGMENT, opens=True, later=offset > 0, ident=ident, first=first)


def _transport(packet: Reading, payload: bytes) -> Reading:
    if packet.flow.protocol == 6:
        tcp = header(TCP, payload, 20)
        if tcp is None or not 20 <= tcp.dataofs * 4 <= len(payload):
            return _of(packet, Kind.MALFORMED)
        opens = bool(tcp.flags.S) and not tcp.flags.A
        return _of(packet, Kind.FLOW, ports=(tcp.sport, tcp.dport), opens=opens)
    udp = header(UDP, payload, 8)
    if udp is None or not 8 <= udp.len <= len(payload):
        return _of(packet, Kind.MALFORMED)
    return _of(packet, Kind.FLOW, ports=(udp.sport, udp.dport), opens=True)


def _starts_error(family: int, message: bytes) -> bool:
    icmp = header(ICMP, message, 8)
    return icmp is not None and icmp.type in ICMP_ERRORS[family]


def _icmp(packet: Reading, family: int, message: bytes) -> Reading:
    """Read an error's flow: that of the quoted packet, which the VIP sent. It quotes the header and at least the ports.

    The quote ends where the error ends, whatever follows in the frame.
    """
    icmp = header(ICMP, message, 8)  # ICMPv6 has the same first fields
    quote = message[8:]
    if icmp is None or icmp.type not in ICMP_ERRORS[family]:
        return packet
    if family == 4:
        ip = header(IP, quote, 20)
        whole = ip is not None and ip.ihl >= 5 and not ip.frag
        ports = quote[ip.ihl * 4 :][:4] if ip else b""
        protocol = ip.proto if ip else 0
    else:
        ip = header(IPv6, quote, 40)
        kind, protocol, behind = _extensions(ip.nh if ip else 59, quote[40:], MAX_QUOTED_EXTENSIONS)
        whole, ports = kind is Kind.NO_FLOW, behind[:4]
    if ip is None or not whole or ip.version != family or len(ports) < 4 or ip_address(ip.src) != packet.flow.vip:
        return packet
    sender, receiver = (int.from_bytes(ports[at : at + 2], "big") for at in (0, 2))
    client = ip_address(ip.dst)
    return _of(
        packet, Kind.FLOW, protocol=protocol, ports=(receiver, sender), client=client, opens=protocol == 17, error=True
    )
