# SPDX-License-Identifier: Apache-2.0
"""Which sizes of packet reach other machines and come back: pings that no router may fragment. I/O only.

The kernel's knowledge of path MTUs is ignored (IP_PMTUDISC_PROBE, ip(7)): a path that loses large packets without a
report, where uploads hang, looks good to it.
"""

from __future__ import annotations

import contextlib
import secrets
import select
import socket
import struct
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from agent.address import Address
from agent.liveness.frame import checksum

SIZES: Final = (576, 1280, 1308, 1400, 1420, 1450, 1476, 1480, 1492, 1500, 3498, 8900, 9000)
"""Of IP packets, in bytes: common MTUs, beside that of the interface."""
WAIT_S: Final = 0.5
_HEADER: Final = {4: 20, 6: 40}
_REQUEST: Final = {4: 8, 6: 128}
_REPLY: Final = {4: 0, 6: 129}
_DISCOVER: Final = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}
_SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
RECEIVE_BYTES: Final = 4 << 20
"""The answers of many addresses arrive at once."""
_PROBE: Final = 3  # IP_PMTUDISC_PROBE, IPV6_PMTUDISC_PROBE


def largest_answered(addresses: Collection[Address], mtu: int) -> dict[Address, int | None]:
    """Return the largest packet that each address answers, of `mtu` bytes at most; None if it answers no ping.

    Those that do not answer one of `mtu` bytes, of two within `WAIT_S`, are sent smaller ones. Raises OSError without
    the right to ping.
    """
    with contextlib.ExitStack() as closing:
        versions = {int(one.version) for one in addresses}
        sockets = {version: closing.enter_context(_open(version)) for version in versions}
        found: dict[Address, int | None] = dict.fromkeys(addresses)
        found |= _answered(sockets, addresses, (mtu, mtu))
        narrow = [address for address, size in found.items() if size is None]
        return found | _answered(sockets, narrow, [size for size in SIZES if size < mtu])


def _answered(
    sockets: Mapping[int, socket.socket], addresses: Collection[Address], sizes: Sequence[int]
) -> dict[Address, int]:
    """Send each address a ping of each size; return the largest answer of those that answer.

    Returns when all have answered the largest size, after `WAIT_S` at most.
    """
    order, identifier, found = list(addresses), secrets.randbits(16), dict[Address, int]()
    for number, address in enumerate(order):
        for size in sizes:
            with contextlib.suppress(OSError):  # larger than the interface carries, or no route
                sockets[address.version].sendto(_ping(address.version, identifier, number, size), (str(address), 0))
    deadline = time.monotonic() + WAIT_S
    while sum(found.values()) < len(order) * max(sizes, default=0) and (left := deadline - time.monotonic()) > 0:
        for opened in select.select(list(sockets.values()), [], [], left)[0]:
            for number, size in _answers(opened, identifier):
                if number < len(order):
                    found[order[number]] = max(found.get(order[number], 0), size)
    return found


def _open(version: int) -> socket.socket:
    family, protocol = (
        (socket.AF_INET, socket.IPPROTO_ICMP) if version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    )
    opened = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    opened.setsockopt(*_DISCOVER[version], _PROBE)
    with contextlib.suppress(OSError):  # not root
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BYTES)
    return opened


def _ping(version: int, identifier: int, number: int, size: int) -> bytes:
    """Return an echo request that makes an IP packet of `size` bytes; its sequence number is the address's number."""
    body = struct.pack("!HHH", identifier, number, size).ljust(size - _HEADER[version] - 4, b"\0")
    check = checksum(struct.pack("!BBH", _REQUEST[4], 0, 0) + body) if version == 4 else 0  # of 6 the kernel's work
    return struct.pack("!BBH", _REQUEST[version], 0, check) + body


def _answers(opened: socket.socket, identifier: int) -> Iterator[tuple[int, int]]:
    """Yield number and size of the pings whose answers have arrived."""
    version = 4 if opened.family == socket.AF_INET else 6
    with contextlib.suppress(OSError):
        while data := opened.recv(65_535):
            message = data[(data[0] & 0xF) * 4 :] if version == 4 else data
            if len(message) >= 10 and message[0] == _REPLY[version]:
                answered, number, size = struct.unpack("!HHH", message[4:10])
                if answered == identifier and size == len(message) + _HEADER[version]:
                    yield number, size
