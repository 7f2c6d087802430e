# SPDX-License-Identifier: Apache-2.0
"""Makes frames out of bytes: each byte is a decision, a zero the plainest one, so that what fails shrinks well.

Owns what is likely to matter: the world's addresses and ports, lengths that are right or nearly, headers inside
headers. Whether a frame means anything is the oracle's business.
"""

import struct
from collections.abc import Sequence
from ipaddress import IPv4Address
from random import Random
from typing import TypeVar

from oracle_packets import Node, Row, Service, World
from proof_stage import CLIENT, FAR_CLIENT, ROWS, VIP, Sockets

T = TypeVar("T")

SIZE = 48
"""Bytes that a frame is made of."""
MAC = bytes.fromhex("020000000001")
SECOND_VIP, NO_VIP = IPv4Address("10.99.0.2"), IPv4Address("10.99.0.3")
NODES = {index: Node(tag, f"02:00:00:00:00:{index:02x}") for index, tag in enumerate((11, 12, 13, 14, 15, 16, 17), 1)}
NODES |= {8: Node(0x1234, None)}

SERVICES = {
    (VIP, 6, 7000): Service(1),
    (VIP, 17, 53): Service(2),
    (SECOND_VIP, 6, 0): Service(3, affinity=2),
    (SECOND_VIP, 6, 7000): Service(4, up=False, affinity=3),
    (SECOND_VIP, 17, 0): Service(5, up=False, affinity=3),
    (VIP, 6, 9000): Service(6),
}
NO_TABLE = 6


def world(seed: int) -> World:
    """A world whose rows all have chains of their own, of any length, with and without this node."""
    choose = Random(seed)
    tables = {
        service.slot: [
            Row(tuple(choose.sample(sorted(NODES), choose.choice((0, 1, 2, 2, 3, 4, 4, 8)))), choose.random() < 0.3)
            for _ in range(ROWS)
        ]
        for service in SERVICES.values()
        if service.slot != NO_TABLE
    }
    return World("02:00:00:00:00:01", 1, NODES, choose.randbytes(16), SERVICES, tables)


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
        """The usual one, or, in a twelfth of the cases, one of the others."""
        number = self.byte()
        return others[number % len(others)] if number >= 235 else usual

    def bytes(self, size: int) -> bytes:
        return bytes(self.byte() for _ in range(size))


def frame(data: bytes) -> bytes:
    """Make a frame; never shorter than the 14 bytes that TEST_RUN wants."""
    c = Choices(data)
    ethernet = c.rarely(MAC, b"\xff" * 6, MAC[:5] + b"\2", b"\1" + MAC[1:]) + _source(c)
    shape = c.byte()
    if shape >= 250:
        whole = ethernet + c.rarely(b"\x08\0", b"\x86\xdd", b"\x81\0") + c.bytes(SIZE)
    else:
        whole = ethernet + b"\x08\0" + _ipv4(c, depth=0)
    if shape % 8 == 7:
        return whole[: max(14, c.byte() * 256 % (len(whole) + 1) if shape > 128 else 14 + c.byte() % 90)]
    return whole + bytes(c.rarely(0, 6, 1, 22))


def _source(c: Choices) -> bytes:
    if c.byte() < 100:
        return c.rarely(bytes.fromhex("0200000000fe"), bytes.fromhex("024c4301000c"))
    hop = c.of(1, 2, 3, 1, 2, 4, 7, 8, 9, 0, 255)
    return struct.pack("!BBBBH", 2, 0x4C, 0x42, hop, c.of(12, 13, 14, 11, 15, 16, 0x1234, 99, 0x3412))


def _ipv4(c: Choices, depth: int) -> bytes:
    source, target = c.of(CLIENT, CLIENT, CLIENT, FAR_CLIENT, IPv4Address(0x0A010200 | c.byte())), _target(c)
    protocol = c.of(6, 6, 6, 17, 17, 1, 1, 4, c.rarely(6, 41, 47, 0, c.byte()))
    payload = _payload(c, protocol, depth)
    options = c.rarely(b"", b"\1" * 4, b"\x94\4\0\0" * 2, b"\1" * 40)
    return _ipv4_header(c, source.packed, target.packed, protocol, options, payload)


def _target(c: Choices) -> IPv4Address:
    return c.of(VIP, VIP, SECOND_VIP, c.rarely(VIP, NO_VIP, CLIENT, IPv4Address(0x0A000000 | c.byte())))


def _ipv4_header(c: Choices, source: bytes, target: bytes, protocol: int, options: bytes, payload: bytes) -> bytes:
    words = 5 + len(options) // 4
    ihl = c.rarely(words, 4, 6, 15, 0)
    length = 20 + len(options) + len(payload)
    length = c.rarely(length, max(0, length - 1), length + 1, 20, 19, c.word(), max(0, length - 9)) & 0xFFFF
    fragment = c.rarely(0x4000, 0, 0x2000, 0x0001, 0x8000, 0x6000, c.word())
    head = c.rarely(4, 6, 5, 0) << 4 | ihl
    return (
        struct.pack("!BBHHHBBH4s4s", head, 0, length, 1, fragment, 64, protocol, 0, source, target) + options + payload
    )


def _payload(c: Choices, protocol: int, depth: int) -> bytes:
    match protocol:
        case 6:
            return _tcp(c)
        case 17:
            return _udp(c)
        case 1:
            return _icmp(c)
        case 4 if depth < 3:
            return _ipv4(c, depth + 1)
    return c.bytes(c.byte() % 64)


def _client_port(c: Choices) -> int:
    return c.of(
        40000 + c.byte() % 4,
        Sockets.MORE_ESTABLISHED[c.byte() % 32],
        Sockets.MORE_ESTABLISHED[c.byte() % 32],
        Sockets.CONNECTED,
        c.word(),
        c.word(),
    )


def _tcp(c: Choices) -> bytes:
    port = c.of(7000, 7000, 7000, c.rarely(9000, 7000, 22, 0, c.word()))
    offset = c.rarely(5, 4, 6, 15, 0)
    flags = c.of(0x02, 0x10, 0x10, 0x18, 0x12, c.byte())
    data = bytes(c.rarely(0, 4, 20, 200))
    return struct.pack("!HHIIBBHHH", _client_port(c), port, 1, 2, offset << 4, flags, 1024, 0, 0) + data


def _udp(c: Choices) -> bytes:
    port = c.of(53, 53, c.rarely(7000, 6080, 0, c.word()))
    length = c.rarely(8, 7, 0, 9, c.word())
    data = bytes(c.rarely(0, 1, 30))
    return struct.pack("!HHHH", _client_port(c), port, length + len(data) * (length == 8), 0) + data


def _icmp(c: Choices) -> bytes:
    kind = c.of(3, 3, 11, 12, c.rarely(8, 0, 5, 4, c.byte()))
    client, vip = c.of(CLIENT, CLIENT, FAR_CLIENT), c.of(VIP, VIP, SECOND_VIP, c.rarely(VIP, NO_VIP, CLIENT))
    protocol = c.of(6, 6, 17, c.rarely(6, 1, 4, c.byte()))
    port = c.of(7000, 53) if protocol == 6 else c.of(53, 7000)
    ports = struct.pack("!HHI", c.rarely(port, 0, 9000, c.word()), _client_port(c), 7) + bytes(c.rarely(0, 4, 20))
    options = c.rarely(b"", b"\1" * 4, b"\1" * 40)
    quote = _ipv4_header(c, vip.packed, client.packed, protocol, options, ports)
    return struct.pack("!BBHI", kind, c.byte() % 8, 0, 1400) + quote[: c.rarely(200, 23, 24, 19, c.byte())]


def batch(data: bytes) -> Sequence[bytes]:
    """Make a frame of each SIZE bytes."""
    return [frame(data[at : at + SIZE]) for at in range(0, len(data), SIZE)]
