# SPDX-License-Identifier: Apache-2.0
"""Probes by the bytes themselves: a TCP connection, and what it sends; a datagram, and its answer."""

from __future__ import annotations

import socket

from agent.address import Address
from agent.config.health import TcpCheckConfig, UdpCheckConfig
from agent.health.connection import Reach, any_server, connect
from agent.health.failure import ProbeFailed, shown


async def probe_tcp(address: Address, port: int, check: TcpCheckConfig, local: bool, reach: Reach = any_server) -> str:
    """Connect, and look for the expected text if there is one. Raises ProbeFailed, OSError; `local` as in `connect`.

    Without it, the kernel alone may have answered: it accepts connections for a stopped process too.
    """
    async with connect(address, port, local=local, reach=reach) as connection:
        if check.expect is None:
            return "accepts connections"
        if check.send is not None:
            await connection.send(check.send)
        answer = bytearray()
        while check.expect not in answer:
            data = await connection.receive()
            if not data:
                raise ProbeFailed(_unexpected(answer, check.expect))
            answer += data
    return "answers as expected"


async def probe_udp(address: Address, port: int, check: UdpCheckConfig) -> str:
    """Send a datagram and judge the first one that comes back. Raises ProbeFailed, OSError."""
    async with connect(address, port, socket.SOCK_DGRAM) as connection:
        await connection.send(check.send)
        answer = await connection.receive()
    if check.expect is not None and check.expect not in answer:
        raise ProbeFailed(_unexpected(answer, check.expect))
    return "answers as expected"


def _unexpected(answer: bytes | bytearray, expected: bytes) -> str:
    return f"answered '{shown(bytes(answer))}', expected '{shown(expected)}'"
