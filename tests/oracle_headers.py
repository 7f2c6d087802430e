# SPDX-License-Identifier: Apache-2.0
"""Reads a frame for the packet oracle with scapy's header definitions: what it is, whose flow, how it came.

Owns reading only. Headers are taken one by one with their exact lengths, because a hostile packet must be read as the
RFCs have it, not as a lenient dissector guesses it: RFC 791, 792, 768, 9293.
"""

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

Address = IPv4Address | IPv6Address
Layer = TypeVar("Layer", bound=Packet)

IPV4 = 0x0800
ICMP_ERRORS = {3, 11, 12}
"""Unreachable (and too big), time exceeded, parameter problem: they quote the packet that they are about."""


class Kind(Enum):
    OTHER_MAC = "to another machine"
    OTHER = "for no service"
    FLOW = "of a flow"
    FRAGMENT = "without ports"
    MALFORMED = "contradicts itself"


@dataclass(frozen=True)
class Flow:
    protocol: int
    client: Address
    client_port: int
    vip: Address
    vip_port: int


@dataclass(frozen=True)
class Reading:
    """`flow` has ports 0 where there are none to read; `error`: it is an ICMP error about the flow."""

    kind: Kind
    flow: Flow | None = None
    opens: bool = False
    error: bool = False
    hop: int = 0
    prev_tag: int = 0


def header(layer: type[Layer], data: bytes, size: int) -> Layer | None:
    """Dissect exactly one header of `size` bytes, without options and payload; None if there is less.

    ICMP has fields for some types only, behind the common ones: they read zeros.
    """
    if len(data) < size:
        return None
    found = layer()
    found.do_dissect(data[:size] + bytes(16) if layer is ICMP else data[:size])
    return found


def read(frame: bytes, own_mac: str, vips: set[Address]) -> Reading:
    """Read a frame that came by the interface whose MAC is `own_mac`."""
    ethernet = header(Ether, frame, 14)
    if ethernet is None:
        return Reading(Kind.OTHER)
    if ethernet.dst != own_mac:
        return Reading(Kind.OTHER_MAC)
    hop, prev_tag = _marker(ethernet.src)
    if ethernet.type != IPV4:
        return Reading(Kind.OTHER)
    kind, flow, opens, error = _ipv4(frame[14:], vips)
    return Reading(kind, flow, opens, error, hop, prev_tag)


def _marker(source: str) -> tuple[int, int]:
    """Hop and sender's tag of 02:4c:42:HH:TT:TT; any other source is the router."""
    octets = [int(octet, 16) for octet in source.split(":")]
    if octets[:3] != [0x02, 0x4C, 0x42] or octets[3] == 0:
        return 0, 0
    return octets[3], octets[4] * 256 + octets[5]


Read = tuple[Kind, Flow | None, bool, bool]
NOT_OURS: Read = (Kind.OTHER, None, False, False)


def _ipv4(data: bytes, vips: set[Address]) -> Read:
    ip = header(IP, data, 20)
    if ip is None or (vip := IPv4Address(ip.dst)) not in vips:
        return NOT_OURS
    no_ports = Flow(ip.proto, IPv4Address(ip.src), 0, vip, 0)
    if ip.version != 4 or ip.ihl < 5 or not ip.ihl * 4 <= ip.len <= len(data):
        return Kind.MALFORMED, no_ports, False, False
    if ip.frag or ip.flags.MF:
        return Kind.FRAGMENT, no_ports, False, False
    payload = data[ip.ihl * 4 : ip.len]
    if ip.proto == 1:
        return _icmp(data[ip.ihl * 4 :], vip)
    return _transport(payload, no_ports)


def _transport(payload: bytes, flow: Flow) -> Read:
    if flow.protocol == 6:
        tcp = header(TCP, payload, 20)
        if tcp is None or not 20 <= tcp.dataofs * 4 <= len(payload):
            return Kind.MALFORMED, flow, False, False
        opens = bool(tcp.flags.S) and not tcp.flags.A
        return Kind.FLOW, Flow(6, flow.client, tcp.sport, flow.vip, tcp.dport), opens, False
    if flow.protocol == 17:
        udp = header(UDP, payload, 8)
        if udp is None or not 8 <= udp.len <= len(payload):
            return Kind.MALFORMED, flow, False, False
        return Kind.FLOW, Flow(17, flow.client, udp.sport, flow.vip, udp.dport), True, False
    return NOT_OURS


def _icmp(message: bytes, vip: Address) -> Read:
    """An error belongs to the flow whose packet, sent by the VIP, it quotes: the header and at least the ports."""
    icmp = header(ICMP, message, 8)
    quote = message[8:]
    ip = header(IP, quote, 20)
    if icmp is None or ip is None or icmp.type not in ICMP_ERRORS:
        return NOT_OURS
    ports = quote[ip.ihl * 4 :][:4]
    if ip.version != 4 or ip.ihl < 5 or ip.frag or len(ports) < 4 or IPv4Address(ip.src) != vip:
        return NOT_OURS
    sender, receiver = (int.from_bytes(ports[at : at + 2], "big") for at in (0, 2))
    flow = Flow(ip.proto, IPv4Address(ip.dst), receiver, vip, sender)
    return Kind.FLOW, flow, ip.proto == 17, True
