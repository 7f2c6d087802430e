# SPDX-License-Identifier: Apache-2.0
"""Both kinds of probes against real servers on loopback."""

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address

import pytest

from agent.config.service import HealthConfig
from agent.health.probe import probe

LOCAL = IPv4Address("127.0.0.1")


def with_server(
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], check: HealthConfig
) -> tuple[bool, str]:
    async def main() -> tuple[bool, str]:
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        async with server:
            return await probe(LOCAL, server.sockets[0].getsockname()[1], check)

    return asyncio.run(main())


async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the check gives up
    writer.close()


def test_tcp() -> None:
    good, why = with_server(close, HealthConfig(type="tcp"))
    assert good, why


def test_tcp_refused() -> None:
    async def main() -> tuple[bool, str]:
        server = await asyncio.start_server(close, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return await probe(LOCAL, port, HealthConfig(type="tcp"))

    good, why = asyncio.run(main())
    assert not good
    assert "refused" in why.lower() or "connect" in why.lower()


def test_silent_http_server_times_out() -> None:
    good, why = with_server(hang, HealthConfig(type="http", timeout_s=0.2))
    assert (good, why.split(" ")[:2]) == (False, ["no", "answer"])


def test_http_that_is_not_http() -> None:
    async def garbage(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\x01 nonsense\r\n\r\n")
        writer.close()

    assert not with_server(garbage, HealthConfig(type="http"))[0]


@pytest.mark.parametrize("early", [0, 2])
@pytest.mark.parametrize(("status", "good"), [(200, True), (204, True), (302, True), (404, False), (503, False)])
def test_http_status(status: int, good: bool, early: int) -> None:
    requests: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        location = b"Location: /elsewhere\r\n" if status == 302 else b""
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" * early)
        writer.write(b"HTTP/1.1 %d\r\n%bContent-Length: 0\r\n\r\n" % (status, location))
        await writer.drain()
        writer.close()

    good_now, why = with_server(answer, HealthConfig(type="http", path="/up"))
    assert good_now is good
    assert why.endswith(f"/up answers {status}")
    assert requests[0].startswith(b"GET /up HTTP/1.1\r\nHost: 127.0.0.1:")
