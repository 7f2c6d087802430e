# SPDX-License-Identifier: Apache-2.0
"""Services on loopback, well-behaved and hostile, and one probe of them as the agent makes it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address

from pydantic import TypeAdapter

from agent.config.health import HealthConfig
from agent.health.probe import probe_of

LOCAL = IPv4Address("127.0.0.1")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_CHECK: TypeAdapter[HealthConfig] = TypeAdapter(HealthConfig)


def check(**settings: object) -> HealthConfig:
    """The check that these settings of lb.yml describe."""
    return _CHECK.validate_python(settings)


def probe(port: int, **settings: object) -> tuple[bool, str]:
    """One probe of 127.0.0.1 by these settings: whether the answer was good, and the reason."""
    return asyncio.run(probe_once(port, **settings))


def probe_server(handler: Handler, tls: ssl.SSLContext | None = None, **settings: object) -> tuple[bool, str]:
    """One probe of a TCP server that serves each connection so."""

    async def main() -> tuple[bool, str]:
        async with await asyncio.start_server(handler, str(LOCAL), 0, ssl=tls) as server:
            return await probe_once(server.sockets[0].getsockname()[1], **settings)

    return asyncio.run(main())


async def probe_once(port: int, **settings: object) -> tuple[bool, str]:
    """The same, in a running loop. Without a timeout of its own it is too long for any machine to reach."""
    return await probe_of((LOCAL, port), check(**{"interval_s": 60, "timeout_s": 60, **settings}))()


def sends(data: bytes) -> Handler:
    """A server that reads a request, sends this and closes."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(data)
        writer.close()

    return handler


def repeats(start: bytes, data: bytes) -> Handler:
    """A server that sends `start`, and then `data` for as long as the connection exists."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        try:
            while True:
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(0)
        except OSError:
            writer.close()

    return handler


async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept, and send nothing."""
    await reader.read()
    writer.close()


async def half_closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send nothing more, but keep reading."""
    writer.write_eof()
    await reader.read()
    writer.close()


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read the request and reset the connection."""
    await reader.readexactly(1)
    lingering = struct.pack("ii", 1, 0)  # on, for 0 s: close resets
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingering)
    writer.transport.abort()
