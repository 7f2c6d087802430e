# SPDX-License-Identifier: Apache-2.0
"""The health check's GET against servers that answer in every form, or in none."""

import asyncio

import pytest

from agent.health.http_get import HttpError, get_status


def exchange(sent: bytes, path: str = "/") -> tuple[int, bytes]:
    """The status of a GET from a server that sends these bytes, and the head of the request that it got."""

    async def main() -> tuple[int, bytes]:
        received = asyncio.get_running_loop().create_future()

        async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received.set_result(await reader.readuntil(b"\r\n\r\n"))
            writer.write(sent)
            writer.close()

        async with await asyncio.start_server(server, "127.0.0.1", 0) as made:
            reader, writer = await asyncio.open_connection(*made.sockets[0].getsockname())
            try:
                return await get_status(reader, writer, path, "x"), bytes(await received)
            finally:
                writer.close()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 200),
        (b"HTTP/1.0 404\r\n\r\n", 404),
        (b"HTTP/1.1 301 \n\n", 301),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", 200),
        (b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n", 503),
    ],
)
def test_responses(head: bytes, status: int) -> None:
    assert exchange(head)[0] == status


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"", "closed before a response"),
        (b"\r\n", "no response line received"),
        (b"HTTP/1.1 200 OK\r\n", "closed before a response"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "closed before a response"),
        (b"SSH-2.0-x\r\n\r\n", "not an HTTP response"),
        (b"HTTP/1.1\r\n\r\n", "not an HTTP response"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "not an HTTP response"),
        (b"HTTP/1.1 xx \r\n\r\n", "not an HTTP response"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, "not an HTTP response"),
    ],
)
def test_what_is_not_a_response(sent: bytes, why: str) -> None:
    with pytest.raises((HttpError, ConnectionError), match=f"{why}|reset"):
        exchange(sent)


def test_a_path_cannot_leave_the_request_line() -> None:
    status, head = exchange(b"HTTP/1.1 204 No Content\r\n\r\n", "/a b\r\nX: y?q=1%20&z")
    assert status == 204
    assert head.startswith(b"GET /a%20b%0D%0AX:%20y?q=1%20&z HTTP/1.1\r\nHost: x\r\n")
