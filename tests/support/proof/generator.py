# SPDX-License-Identifier: Apache-2.0
"""Makes frames from bytes: each byte is a decision, and 0 the simplest one, so that a failing frame can be simplified.

Owns what is likely to matter: the world's addresses and ports, lengths that are right or almost right, headers inside
headers. The oracle decides what a frame means.
"""

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from support.oracle.headers import Address
from support.proof.stage_sockets import CLIENT, FAR_CLIENT, VIP, Sockets
from support.proof.world import CLIENT6, ECHO, ME, ME6, NO_VIP, NO_VIP6, PEERS, PEERS6, SECOND_VIP, SECOND_VIP6, VIP6

T = TypeVar("T")

SIZE = 64
"""Bytes that a frame is made of."""
MAC = bytes.fromhex("020000000001")
MARKER = b"\2LB"
ETHERTYPE = {4: b"\x08\0", 6: b"\x86\xdd"}
PORTS = {6: (7000, 443, 80, 9000), 17: (53, 7000)}
MAX_DEPTH = 3
MORE_SOURCES = tuple(IPv4Address(address) for address in ("10.66.0.1", "240.1.2.3", "255.255.255.255"))
ROUTERS = tuple(IPv4Address(address) for address in ("169.254.10.1", "240.0.0.5", "100.64.0.1"))
ROUTERS6 = IPv6Address("fe80::1"), IPv6Address("2001:db8:7::7")
"""Where ICMP errors come from; most are addresses that no client can have."""


class Choices:
    """Reads decisions from bytes, zeros after their end."""

    def __init__(self, data: bytes) -> None:
        self._data = iter(data)

    def byte(self) -> int:
        return next(self._data, 0)

    def word(self) -> int:
        return self.byte() << 8 | self.byte()

    def of(self, *options: T) -> T:
        return options[self.byte() % len(options)]

    def rarely(self, usual: T, *others: T) -> T:
        """Return the usual one or, once in twenty times, one of the others."""
        number = self.byte()
        return others[number % len(others)] if number >= 243 else usual

    def bytes(self, size: int) -> bytes:
        return bytes(self.byte() for _ in range(size))


def frame(data: bytes) -> bytes:
    """Make a frame of at least the 14 bytes that TEST_RUN requires."""
    c = Choices(data)
    macs = c.rarely(MAC, b"\xff" * 6, MAC[:5] + b"\2", b"\1" + MAC[1:]) + _source(c)
    shape = c.byte()
    if shape >= 250:
        return macs + c.of(b"\x08\0", b"\x86\xdd", b"\x81\0", c.bytes(2)) + c.bytes(SIZE)
    tags = c.rarely(
        b"",
        b"\x81\0\0\5",
        b"\x88\xa8\0\5\x81\0\0\6",
        b"\x81\0\3\xe7",
        b"\x81\0\xe0\5",
        b"\x81\0\0\0" * 2,
        b"\x81\0\0\5" * 3,
    )
    family = c.of(4, 4, 4, 6, 6)
    content = c.byte()
    if content >= 220:
        packet = _echo(c, family, by_marker=macs[6:9] == MARKER and macs[9] > 0)
    else:
        packet = _outer(c, family) if content >= 150 else _packet(c, family, depth=0)
    whole = macs + tags + ETHERTYPE[c.rarely(family, 10 - family)] + packet
    if shape >= 220:
        return whole[: 14 + c.word() % max(1, len(whole) - 14)]
    return whole + bytes(c.rarely(0, 6, 1, 22))


def _source(c: Choices) -> bytes:
    if c.byte() < 128:
        return c.rarely(bytes.fromhex("0200000000fe"), bytes.fromhex("024c4301000c"))
    hop = c.of(1, 2, 3, 1, 2, 4, 7, 8, 9, 0, c.of(255, 10, 11, 12, 14), c.of(16, 17, 18, 19, 24, 27))
    return struct.pack("!BBBBH", 2, 0x4C, 0x42, hop, c.of(12, 13, 14, 11, 15, 16, 0x1234, 99, 0x3412))


def _packet(c: Choices, family: int, depth: int) -> bytes:
    """Make a packet, in most cases to a VIP."""
    if family == 4:
        source: Address = c.of(CLIENT, CLIENT, FAR_CLIENT, IPv4Address(0x0A010200 | c.byte()))
        source = c.rarely(source, VIP, IPv4Address("127.0.0.1"), IPv4Address(c.word() << 16), *MORE_SOURCES)
        target: Address = c.of(VIP, VIP, VIP, SECOND_VIP)
        target = c.rarely(target, NO_VIP, ME, CLIENT, IPv4Address("10.99.1.0"))
    else:
        source = c.of(CLIENT6, CLIENT6, IPv6Address(int(CLIENT6) + c.byte()))
        source = c.rarely(source, VIP6, IPv6Address("::1"), IPv6Address("fe80::1"), IPv6Address("2001:db8:66::1"))
        target = c.of(VIP6, VIP6, VIP6, SECOND_VIP6)
        target = c.rarely(target, NO_VIP6, ME6, CLIENT6)
    protocol = c.of(6, 6, 6, 17, 17, 1 if family == 4 else 58, c.rarely(6, 4, 41, 47, 0, 58, 1, c.byte()))
    if protocol in (1, 58):
        source = c.of(source, source, c.of(*(ROUTERS if family == 4 else ROUTERS6)))
    payload = _payload(c, family, protocol, source, target, depth)
    return _ip(c, family, source, target, protocol, payload)


def _between_nodes(c: Choices, family: int) -> tuple[Address, Address]:
    """Choose the ends of a packet from another node to this one, in most cases."""
    peers: tuple[Address, ...] = PEERS if family == 4 else PEERS6
    source = c.rarely(peers[c.byte() % len(peers)], CLIENT if family == 4 else CLIENT6, ME if family == 4 else ME6)
    target: Address = (c.rarely(ME, VIP, PEERS[0])) if family == 4 else c.rarely(ME6, VIP6, PEERS6[0])
    return source, target


def _outer(c: Choices, family: int) -> bytes:
    """Make a tunnel to this node, in most cases a valid one, around a packet or another tunnel."""
    source, target = _between_nodes(c, family)
    inner_family = c.of(4, 6)
    inner = c.rarely(_packet, _outer_of_outer)(c, inner_family, 1)
    return _tunnel(c, family, source, target, inner_family, inner)


def _tunnel(c: Choices, family: int, source: Address, target: Address, inner_family: int, inner: bytes) -> bytes:
    protocol = c.rarely(4 if inner_family == 4 else 41, 41, 4)
    if c.byte() >= 128:
        protocol = 17
        length = 8 + len(inner)
        length = c.rarely(length, length - 1, length + 1, 8, 0, c.word())
        inner = struct.pack("!HHHH", 50000, c.rarely(6080, 6081), length, c.rarely(0, 1)) + inner
    return _ip(
        c,
        family,
        source,
        target,
        protocol,
        inner,
        hop=c.of(1, 2, 3, 1, 4, 8, 9, c.of(1, 1, 11, c.rarely(10, 0, 13, 14, 15, 16, 17, 18, 27, c.word()))),
    )


def _echo(c: Choices, family: int, by_marker: bool) -> bytes:
    """Make an echo question, plain or in a tunnel, in most cases one that is answered."""
    source, target = _between_nodes(c, family)
    tunnelled = c.byte() >= 128
    encap = 1 if tunnelled else 2 if by_marker else 0
    magic, kind = c.rarely(b"LBEC", b"LBCH"), c.rarely(1, 2, 0)
    version, cluster = c.rarely(1, 0, 256), c.rarely(ECHO.cluster, 7)
    nonce = c.bytes(2) + bytes(6)
    back = c.rarely(bytes.fromhex("02000000000c"), b"\xff" * 6, c.bytes(6))
    declared = c.rarely(encap, 0, 1, 2, 3)
    message = struct.pack("!4sBxHI4x8s24x6sB9x", magic, kind, version, cluster, nonce, back, declared)
    message += c.rarely(b"", b"\0")
    length = 8 + len(message)
    ports = c.of(ECHO.port, 50000, c.word()), c.rarely(ECHO.port, 53, 0)
    datagram = struct.pack("!HHHH", *ports, c.rarely(length, length - 1, length + 1, 0), c.of(0, 0xABCD)) + message
    if not tunnelled:
        return _ip(c, family, source, target, 17, datagram)
    inner_family = c.rarely(family, 10 - family)
    ends = (source, target) if inner_family == family else _between_nodes(c, inner_family)
    inner = _ip(c, inner_family, *ends, 17, datagram) + c.rarely(b"", b"\0")
    return _tunnel(c, family, *c.rarely((source, target), _between_nodes(c, family)), inner_family, inner)


def _outer_of_outer(c: Choices, family: int, depth: int) -> bytes:
    return _outer(c, family) if depth < MAX_DEPTH and c.byte() else _packet(c, family, MAX_DEPTH)


def _ip(
    c: Choices, family: int, source: Address, target: Address, protocol: int, payload: bytes, hop: int = 7
) -> bytes:  # fmt: skip
    if family == 6:
        protocol, payload = _extended(c, protocol, payload)
        length = len(payload)
        length = c.rarely(length, max(0, length - 1), length + 1, 0, c.word(), max(0, length - c.byte() % 64))
        first = c.rarely(6, 4) << 28 | c.rarely(0, 0xBB) << 20 | 0x12340 | hop & 0x1F
        head = struct.pack("!IHBB", first, length, protocol, 64)
        return head + source.packed.rjust(16, b"\0") + target.packed.rjust(16, b"\0") + payload
    options = c.rarely(b"", b"\1" * 4, b"\x94\4\0\0" * 2, b"\1" * 40)
    ihl = c.rarely(5 + len(options) // 4, 4, 6, 15, 0)
    length = 20 + len(options) + len(payload)
    shorter = max(0, length - c.byte() % 64)
    length = c.rarely(length, max(0, length - 1), length + 1, 20, 19, c.word(), shorter, shorter) & 0xFFFF
    fragment = c.rarely(0x4000, 0, 0x2000, 0x0001, 0x8000, 0x6000, 0x2000, 0x20B9, c.word())
    first = c.rarely(4, 6, 5, 0) << 4 | ihl
    head = struct.pack("!BBHHHBBH", first, c.rarely(0, 0xBB), length, hop, fragment, 64, protocol, 0)
    return head + source.packed[-4:] + target.packed[-4:] + options + payload


def _extended(c: Choices, protocol: int, payload: bytes) -> tuple[int, bytes]:
    """Extension headers before a payload: seldom, then up to eight."""
    number = c.byte()
    for _ in range(number % 9 if number >= 200 else 0):
        kind = c.of(0, 60, 43, 44, c.rarely(60, 51, c.byte()))
        words = c.rarely(0, 1, 255)
        middle = c.rarely(0, 1, c.word())  # segments left, or a fragment's offset
        payload = (
            struct.pack("!BBHI", protocol, 0 if kind == 44 else words, middle, 9) + bytes(8 * (words % 2)) + payload
        )
        protocol = kind
    return protocol, payload


def _payload(c: Choices, family: int, protocol: int, source: Address, target: Address, depth: int) -> bytes:
    if protocol == 6:
        return _tcp(c)
    if protocol == 17:
        return _udp(c)
    if protocol == (1 if family == 4 else 58):
        return _icmp(c, family)
    if protocol in (4, 41) and depth < MAX_DEPTH:
        return _packet(c, 4 if protocol == 4 else 6, depth + 1)
    return c.bytes(c.byte() % 32)


def _client_port(c: Choices) -> int:
    return c.of(
        40000 + c.byte() % 4,
        Sockets.MORE_ESTABLISHED[c.byte() % 32],
        Sockets.MORE_ESTABLISHED[c.byte() % 32],
        Sockets.CONNECTED,
        c.word(),
    )


def _tcp(c: Choices) -> bytes:
    port = c.rarely(c.of(*PORTS[6]), 22, 0, c.word())
    offset = c.rarely(5, 4, 6, 15, 0)
    flags = c.of(0x02, 0x10, 0x10, 0x18, 0x12, c.byte())
    data = bytes(c.of(0, 0, 4, 100, 600, 1420))
    return struct.pack("!HHIIBBHHH", _client_port(c), port, 1, 2, offset << 4, flags, 1024, 0, 0) + data


def _udp(c: Choices) -> bytes:
    port = c.rarely(c.of(*PORTS[17]), 6080, 0, c.word())
    data = bytes(c.of(0, 0, 1, 30, 1440))
    length = c.rarely(8 + len(data), 7, 0, 9 + len(data), c.word())
    return struct.pack("!HHHH", _client_port(c), port, length, 0) + data


def _icmp(c: Choices, family: int) -> bytes:
    if family == 4:
        kind = c.of(3, 3, 11, 12, c.rarely(8, 0, 5, 4, c.byte()))
        client: Address = c.of(CLIENT, CLIENT, FAR_CLIENT)
        vip: Address = c.rarely(c.of(VIP, VIP, SECOND_VIP), NO_VIP, CLIENT)
    else:
        kind = c.of(2, 1, 3, 4, c.rarely(128, 135, 0, 5, c.byte()))
        client, vip = CLIENT6, c.rarely(c.of(VIP6, VIP6, SECOND_VIP6), NO_VIP6, CLIENT6)
    protocol = c.of(6, 6, 17, c.rarely(6, 1, 4, 58, c.byte()))
    port = c.rarely(c.of(*PORTS.get(protocol, (7000,))), 0, 22, c.word())
    ports = struct.pack("!HHI", port, _client_port(c), 7) + bytes(c.rarely(0, 4, 20, 1500))
    quote = _ip(c, family, vip, client, protocol, ports)
    return struct.pack("!BBHI", kind, c.byte() % 8, 0, 1400) + quote[: c.rarely(2000, 23, 24, 19, 43, 44, c.byte())]
