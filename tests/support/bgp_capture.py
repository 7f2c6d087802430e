# SPDX-License-Identifier: Apache-2.0
"""The BGP messages of a speaker in a packet capture, decoded by code of its own (RFC 4271, RFC 4760).

header  16 x 0xff, length (2), type (1)                                                        section 4.1
UPDATE  withdrawn length (2), prefixes; attributes length (2), attributes; prefixes            section 4.3
attribute  flags (1), type (1), length (1, or 2 with flag 0x10), value; prefix: bits (1), as many bytes as needed
MP_REACH_NLRI (14)  family (2), subfamily (1), next hop length (1), next hop, reserved (1), prefixes
MP_UNREACH_NLRI (15)  family (2), subfamily (1), prefixes                                      RFC 4760
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.utils import PcapReader

OPEN, UPDATE, NOTIFICATION, KEEPALIVE = 1, 2, 3, 4


@dataclass
class SentMessages:
    """The BGP messages that one address sent, over all its connections."""

    types: list[int] = field(default_factory=list)
    advertised: list[tuple[str, str]] = field(default_factory=list)
    """Prefix and next hop."""
    withdrawn: list[str] = field(default_factory=list)


def read_capture(capture: Path, speaker: str) -> SentMessages:
    """Read a capture file; `speaker` is the address whose messages count."""
    streams: dict[tuple[str, int, int], dict[int, bytes]] = {}
    with PcapReader(str(capture)) as packets:
        for packet in packets:
            network = packet.getlayer(IP) or packet.getlayer(IPv6)
            tcp = packet.getlayer(TCP)
            if network is None or tcp is None or network.src != speaker:
                continue
            length = network.len - network.ihl * 4 if network.version == 4 else network.plen
            data = bytes(tcp)[tcp.dataofs * 4 : length]
            start = streams.setdefault((network.dst, tcp.sport, tcp.dport), {})
            if "S" in tcp.flags:
                start.clear()
                start[tcp.seq + 1] = b""
            elif len(data) > len(start.get(tcp.seq, b"")):
                start[tcp.seq] = data
    sent = SentMessages()
    for segments in streams.values():
        _read(_assembled(segments), sent)
    return sent


def _assembled(segments: dict[int, bytes]) -> bytes:
    """Return the bytes of a connection in order, without retransmissions. AssertionError if the capture lacks some."""
    whole = b""
    begin = min(segments)
    for sequence, data in sorted(segments.items()):
        overlap = begin + len(whole) - sequence
        assert overlap >= 0, "a segment is missing in the capture"
        whole += data[overlap:]
    return whole


def _read(stream: bytes, sent: SentMessages) -> None:
    while len(stream) >= 19:
        assert stream[:16] == b"\xff" * 16, "not a BGP message"
        length, kind = struct.unpack("!HB", stream[16:19])
        sent.types.append(kind)
        if kind == UPDATE:
            _update(stream[19:length], sent)
        stream = stream[length:]


def _update(body: bytes, sent: SentMessages) -> None:
    (length,) = struct.unpack("!H", body[:2])
    sent.withdrawn += _prefixes(body[2 : 2 + length], 4)
    body = body[2 + length :]
    (length,) = struct.unpack("!H", body[:2])
    attributes, nlri = body[2 : 2 + length], body[2 + length :]
    next_hop = ""
    while attributes:
        flags, kind = attributes[:2]
        size = 4 if flags & 0x10 else 3
        length = int.from_bytes(attributes[2:size])
        value, attributes = attributes[size : size + length], attributes[size + length :]
        if kind == 3:
            next_hop = str(ip_address(value))
        elif kind == 14:
            hop = value[4 : 4 + value[3]]
            sent.advertised += [
                (prefix, str(ip_address(hop[:16]))) for prefix in _prefixes(value[5 + value[3] :], _width(value))
            ]
        elif kind == 15:
            sent.withdrawn += _prefixes(value[3:], _width(value))
    sent.advertised += [(prefix, next_hop) for prefix in _prefixes(nlri, 4)]


def _width(value: bytes) -> int:
    family, subfamily = struct.unpack("!HB", value[:3])
    assert subfamily == 1, "not unicast"
    return {1: 4, 2: 16}[family]


def _prefixes(data: bytes, width: int) -> list[str]:
    found = []
    while data:
        bits, size = data[0], (data[0] + 7) // 8
        found.append(str(ip_network((data[1 : 1 + size].ljust(width, b"\0"), bits))))
        data = data[1 + size :]
    return found
