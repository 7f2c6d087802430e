# SPDX-License-Identifier: Apache-2.0
"""Pings routers (ICMP, ICMPv6 echo): they answer no echo of ours. I/O only.

Raw sockets, because the kernel's ping sockets are off by default; a filter has the kernel queue echo replies alone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable
from ipaddress import ip_address

from agent.address import Address
from agent.liveness.frame import checksum

_REQUEST = {4: 8, 6: 128}
_REPLY = {4: 0, 6: 129}
_ICMP_FILTER, _ICMP6_FILTER = 1, 1  # linux/icmp.h at level SOL_RAW, linux/icmpv6.h
_SOL_RAW = 255
_DRAIN = 256


class PingSocket:
    """Sends pings and receives the answers to them: `on_reply(address, nonce)`."""

    def __init__(self, on_reply: Callable[[Address, int], None]) -> None:
        self._on_reply = on_reply
        self._identifier = os.getpid() & 0xFFFF
        self._sockets: dict[int, socket.socket] = {}

    def ping(self, address: Address, nonce: int) -> bool:
        """Send a ping; return whether it could be sent."""
        version = address.version
        body = struct.pack("!HHQ", self._identifier, nonce & 0xFFFF, nonce)
        check = checksum(struct.pack("!BBH", _REQUEST[4], 0, 0) + body) if version == 4 else 0  # of 6 the kernel's work
        try:
            self._socket(version).sendto(struct.pack("!BBH", _REQUEST[version], 0, check) + body, (str(address), 0))
        except OSError:
            return False
        return True

    def drain(self) -> None:
        """Receive what has arrived."""
        for version, opened in self._sockets.items():
            with contextlib.suppress(OSError):
                for _ in range(_DRAIN):
                    data, source = opened.recvfrom(256)
                    self._receive(version, data, source[0])

    def close(self) -> None:
        """Close the sockets."""
        while self._sockets:
            self._sockets.popitem()[1].close()

    def _receive(self, version: int, data: bytes, source: str) -> None:
        message = data[(data[0] & 0xF) * 4 :] if version == 4 and data else data
        if len(message) != 16 or message[0] != _REPLY[version]:
            return
        identifier, _, nonce = struct.unpack("!HHQ", message[4:])
        if identifier == self._identifier:
            self._on_reply(ip_address(source.partition("%")[0]), nonce)

    def _socket(self, version: int) -> socket.socket:
        if version not in self._sockets:
            family, protocol = (socket.AF_INET, socket.IPPROTO_ICMP) if version == 4 else (
                socket.AF_INET6, socket.IPPROTO_ICMPV6)  # fmt: skip
            opened = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
            if version == 4:
                opened.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", 0xFFFFFFFF & ~(1 << _REPLY[4])))
            else:
                blocked = ((1 << 256) - 1) & ~(1 << _REPLY[6])
                opened.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, blocked.to_bytes(32, "little"))
            self._sockets[version] = opened
        return self._sockets[version]
