# SPDX-License-Identifier: Apache-2.0
"""Builds frames byte by byte for packet tests: valid by default, invalid on request.

Each layer is a function from its payload to bytes. A length of `None` means the correct one.
"""

import socket
import struct
from typing import Final

TCP: Final = 6
UDP: Final = 17
ICMP: Final = 1
ICMP6: Final = 58
IPIP: Final = 4
SIX: Final = 41
"""IPv6 in something."""
IPV4: Final = 0x0800
IPV6: Final = 0x86DD
VLAN: Final = 0x8100
QINQ: Final = 0x88A8
GUE_PORT: Final = 6080

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
MORE_FRAGMENTS: Final = 0x2000
DONT_FRAGMENT: Final = 0x4000


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


HERE: Final = mac("02:00:00:00:00:01")
"""The MAC of the node under test."""
ROUTER: Final = mac("02:00:00:00:00:fe")


def marker(hop: int, tag: int) -> bytes:
    """The source MAC of a packet forwarded in the cluster: 02:4c:42:HH:TT:TT."""
    return mac("02:4c:42") + struct.pack("!BH", hop, tag)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def ethernet(payload: bytes, *, dst: bytes, src: bytes, ethertype: int = IPV4) -> bytes:
    """Return a frame, padded to Ethernet's minimum of 60 bytes."""
    return (dst + src + struct.pack("!H", ethertype) + payload).ljust(60, b"\0")


def ipv4(
    payload: bytes, *, src: str, dst: str, protocol: int, options: bytes = b"", version: int = 4,
    ihl: int | None = None, total: int | None = None, fragment: int = DONT_FRAGMENT, ttl: int = 64, ident: int = 1,
) -> bytes:  # fmt: skip
    """`fragment` holds the flags and the offset in units of 8 bytes."""
    words = 5 + len(options) // 4 if ihl is None else ihl
    length = 20 + len(options) + len(payload) if total is None else total
    head = struct.pack("!BBHHHBBH", version << 4 | words, 0, length, ident, fragment, ttl, protocol, 0)
    head += socket.inet_aton(src) + socket.inet_aton(dst) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def vlan(payload: bytes, tag: int, ethertype: int) -> bytes:
    """Return what follows the EtherType of a tagged frame: the tag, the payload's type, and the payload."""
    return struct.pack("!HH", tag, ethertype) + payload


def ipv6(
    payload: bytes, *, src: str, dst: str, protocol: int, version: int = 6, traffic_class: int = 0, label: int = 0,
    length: int | None = None, hops: int = 64,
) -> bytes:  # fmt: skip
    """`protocol` is the next header: the type of `payload`, which may begin with extension headers."""
    size = len(payload) if length is None else length
    head = struct.pack("!IHBB", version << 28 | traffic_class << 20 | label, size, protocol, hops)
    return head + socket.inet_pton(socket.AF_INET6, src) + socket.inet_pton(socket.AF_INET6, dst) + payload


def extension(payload: bytes, following: int, length: int = 0, rest: bytes | None = None) -> bytes:
    """An IPv6 extension header of 8 * (1 + `length`) bytes before `payload`, whose type is `following`."""
    body = bytes(6 + 8 * length) if rest is None else rest
    return struct.pack("!BB", following, length) + body + payload


def fragment6(payload: bytes, following: int, offset: int = 0, more: bool = False) -> bytes:
    """An IPv6 fragment header; `offset` in units of 8 bytes."""
    return struct.pack("!BBHI", following, 0, offset << 3 | more, 7) + payload


def gue(
    payload: bytes, *, source: int = 50000, dest: int = GUE_PORT, length: int | None = None, check: int = 0
) -> bytes:
    """Return GUE variant 1: UDP, followed directly by the IP packet."""
    return struct.pack("!HHHH", source, dest, 8 + len(payload) if length is None else length, check) + payload


def _with_checksum(segment: bytes, at: int, src: str, dst: str, protocol: int) -> bytes:
    family = socket.AF_INET6 if ":" in dst else socket.AF_INET
    pseudo = socket.inet_pton(family, src) + socket.inet_pton(family, dst)
    pseudo += struct.pack("!BBH", 0, protocol, len(segment))  # IPv6's longer pseudo header has the same sum
    return segment[:at] + struct.pack("!H", checksum(pseudo + segment)) + segment[at + 2 :]


def tcp(
    payload: bytes = b"", *, src: str, dst: str, sport: int, dport: int, flags: int = SYN, seq: int = 1,
    ack: int = 0, doff: int = 5,
) -> bytes:  # fmt: skip
    segment = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, doff << 4, flags, 65535, 0, 0) + payload
    return _with_checksum(segment, 16, src, dst, TCP)


def udp(payload: bytes = b"", *, src: str, dst: str, sport: int, dport: int, length: int | None = None) -> bytes:
    segment = struct.pack("!HHHH", sport, dport, 8 + len(payload) if length is None else length, 0) + payload
    return _with_checksum(segment, 6, src, dst, UDP)


def icmp(payload: bytes, *, kind: int, code: int = 0, rest: int = 0) -> bytes:
    """`rest` is the word after the checksum: the MTU of "too big", the ident and sequence of an echo."""
    message = struct.pack("!BBHI", kind, code, 0, rest) + payload
    return message[:2] + struct.pack("!H", checksum(message)) + message[4:]


def icmp6(payload: bytes, *, src: str, dst: str, kind: int, code: int = 0, rest: int = 0) -> bytes:
    """`rest` is the word after the checksum."""
    return _with_checksum(struct.pack("!BBHI", kind, code, 0, rest) + payload, 2, src, dst, ICMP6)
