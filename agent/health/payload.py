# SPDX-License-Identifier: Apache-2.0
"""Probes by the bytes themselves: a TCP connection, and what it sends; a datagram, and its answer."""

from __future__ import annotations

from agent.config.health import TcpCheckConfig, UdpCheckConfig
from agent.health.connection import Connect
from agent.health.failure import ProbeFailed, shown


async def probe_tcp(connect: Connect, check: TcpCheckConfig) -> str:
    """Connect, and look for the expected text if there is one. Raises ProbeFailed, OSError.

    Without it, the kernel alone may have answered: it accepts connections for a stopped process too.
    """
    async with connect() as connection:
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


async def probe_udp(connect: Connect, check: UdpCheckConfig) -> str:
    """Send a datagram and judge the first one that comes back. Raises ProbeFailed, OSError."""
    async with connect() as connection:
        await connection.send(check.send)
        answer = await connection.receive()
    if check.expect is not None and check.expect not in answer:
        raise ProbeFailed(_unexpected(answer, check.expect))
    return "answers as expected"


def _unexpected(answer: bytes | bytearray, expected: bytes) -> str:
    return f"answered '{shown(bytes(answer))}', expected '{shown(expected)}'"
