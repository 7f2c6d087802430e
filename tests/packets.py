# SPDX-License-Identifier: Apache-2.0
"""Builds frames byte by byte, right by default and wrong on request, for packet tests.

Each layer is a function from its payload to bytes. `None` for a length means the right one.
"""

import socket
import struct
from typing import Final

TCP: Final = 6
UDP: Final = 17
ICMP: Final = 1
IPV4: Final = 0x0800

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
    """A frame, padded to the 60 bytes that the wire wants."""
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


def _with_checksum(segment: bytes, at: int, src: str, dst: str, protocol: int) -> bytes:
    pseudo = socket.inet_aton(src) + socket.inet_aton(dst) + struct.pack("!BBH", 0, protocol, len(segment))
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
