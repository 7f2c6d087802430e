# SPDX-License-Identifier: Apache-2.0
"""Messages of rtnetlink, packed and parsed: the header, and the attributes after each message's own struct. Pure.

RFC 3549, section 2.2; linux/netlink.h and linux/rtnetlink.h have the numbers. Numbers are in the machine's byte order.
Every message and every attribute starts at a multiple of 4 bytes; a length counts its own header, but no padding.

    nlmsghdr   | length: 4 | type: 2 | flags: 2 | sequence: 4 | port: 4 | body |
    body       | the struct of the type | attribute | attribute | ...
    rtattr     | length: 2 | type: 2 | value |
    nlmsgerr   | -errno: 4 | the header of the request |     (the body of an NLMSG_ERROR)

What is truncated ends a sequence, as with the kernel's NLMSG_OK and RTA_OK.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from agent.address import Address

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26
RTM_NEWNEIGH: Final = 28
RTM_DELNEIGH: Final = 29
RTM_GETNEIGH: Final = 30
RTM_NEWRULE: Final = 32
RTM_DELRULE: Final = 33
RTM_NEWNETCONF: Final = 80
RTM_DELNETCONF: Final = 81
SOCK_DIAG_BY_FAMILY: Final = 20
"""Of sock_diag, which has the same header (linux/sock_diag.h)."""

NLM_F_REQUEST: Final = 0x1
NLM_F_REPLACE: Final = 0x100
NLM_F_DUMP: Final = 0x300
NLM_F_CREATE: Final = 0x400

FAMILY: Final[dict[int, int]] = {4: 2, 6: 10}
"""AF_INET and AF_INET6, by IP version."""

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_INT: Final = struct.Struct("=i")
_TYPE_MASK: Final = 0x3FFF
"""NLA_TYPE_MASK: the two bits above it mean that a value is nested, or in network byte order."""


class Request(NamedTuple):
    """A request to the kernel, before it has its header."""

    kind: int
    body: bytes
    flags: int = 0


class Message(NamedTuple):
    """A message of the kernel. `sequence` is that of the request which it answers."""

    kind: int
    sequence: int
    body: bytes


def pack(request: Request, sequence: int) -> bytes:
    """Return a request with its header, padded."""
    length = _HEADER.size + len(request.body)
    header = _HEADER.pack(length, request.kind, request.flags | NLM_F_REQUEST, sequence, 0)
    return header + request.body + bytes(-length % 4)


def pack_attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute, padded."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def messages(datagram: bytes) -> Iterator[Message]:
    """Yield the messages of a datagram."""
    offset, end = 0, len(datagram)
    while offset + _HEADER.size <= end:
        length, kind, _, sequence, _ = _HEADER.unpack_from(datagram, offset)
        if not _HEADER.size <= length <= end - offset:
            return
        yield Message(kind, sequence, datagram[offset + _HEADER.size : offset + length])
        offset += length + -length % 4


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Return the values of the attributes that begin at an offset, by type."""
    found, end = {}, len(data)
    while offset + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if not _ATTRIBUTE.size <= length <= end - offset:
            break
        found[kind & _TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += length + -length % 4
    return found


def error_code(body: bytes) -> int:
    """Return the errno in the body of an NLMSG_ERROR; 0 for an acknowledgment."""
    return -_INT.unpack_from(body)[0] if len(body) >= _INT.size else 0


def number(value: bytes | None) -> int:
    """Return the 32-bit number in an attribute's value; 0 for no value."""
    return _INT.unpack(value)[0] if value and len(value) == _INT.size else 0


def address(value: bytes | None) -> Address | None:
    """Return the IP address in an attribute's value; None for no value, and for one of another length."""
    match len(value or b""):
        case 4:
            return IPv4Address(value)
        case 16:
            return IPv6Address(value)
        case _:
            return None
