# SPDX-License-Identifier: Apache-2.0
"""The agent's HTTP against itself, against Python's client, and against what is no HTTP."""

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from agent import web
from agent.cli.client import call, follow
from agent.errors import AgentError, NotRunningError


class Served:
    """A server whose answers tell what it was asked."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Answer:
        match request.path:
            case "/refuse":
                return web.json_answer({"error": "no"}, 409)
            case "/watch":
                return web.Answer(200, kind="application/x-ndjson", lines=self._lines())
            case "/slow":
                await asyncio.sleep(0.2)
        return web.json_answer({"method": request.method, "path": request.path, "query": dict(request.query)})

    async def _lines(self) -> AsyncGenerator[bytes, None]:
        try:
            for number in range(3):
                yield json.dumps({"number": number}).encode() + b"\n"
            await asyncio.Event().wait()
        finally:
            self.ended.set()


def with_server(path: Path, use: Any) -> Any:
    async def main() -> Any:
        served = Served()
        server = web.Server(served.answer)
        await server.start(path)
        try:
            return await use(path, served, server)
        finally:
            await server.stop()

    return asyncio.run(main())


def test_a_question_and_its_answer(tmp_path: Path) -> None:
    async def use(path: Path, *_: object) -> Any:
        return await call(path, "POST", "/announce/drain", reason="a & b = c, 50 %\u20ac", force="")

    assert with_server(tmp_path / "socket", use) == {
        "method": "POST",
        "path": "/announce/drain",
        "query": {"reason": "a & b = c, 50 %\u20ac", "force": ""},
    }


def test_pythons_own_client_is_understood(tmp_path: Path) -> None:
    def ask(path: Path) -> Any:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        connection.request("GET", "/status?x=1")
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())["query"]

    async def use(path: Path, *_: object) -> Any:
        return await asyncio.to_thread(ask, path)

    assert with_server(tmp_path / "socket", use) == (200, {"x": "1"})


def test_a_refusal_and_nobody(tmp_path: Path) -> None:
    async def use(path: Path, *_: object) -> Any:
        await call(path, "GET", "/refuse")

    with pytest.raises(AgentError, match=r"^no$"):
        with_server(tmp_path / "socket", use)
    with pytest.raises(NotRunningError, match="no agent answers"):
        asyncio.run(call(tmp_path / "nothing", "GET", "/status"))


def test_lines_come_until_the_client_leaves(tmp_path: Path) -> None:
    async def use(path: Path, served: Served, _: object) -> Any:
        lines = follow(path, "/watch")
        found = [(await anext(lines))["number"] for _ in range(3)]
        assert not served.ended.is_set()
        await lines.aclose()  # type: ignore[attr-defined]
        await asyncio.wait_for(served.ended.wait(), 15)
        return found

    assert with_server(tmp_path / "socket", use) == [0, 1, 2]


def test_a_server_that_stops_ends_watches_and_finishes_what_is_nearly_done(tmp_path: Path) -> None:
    async def use(path: Path, served: Served, server: web.Server) -> Any:
        lines = follow(path, "/watch")
        await anext(lines)
        slow = asyncio.create_task(call(path, "GET", "/slow"))
        await asyncio.sleep(0.05)
        await server.stop()
        assert served.ended.is_set()
        with pytest.raises(NotRunningError, match="has ended"):
            [line async for line in lines]
        return await slow

    assert with_server(tmp_path / "socket", use)["path"] == "/slow"


@pytest.mark.parametrize(
    "sent",
    [b"nonsense\r\n\r\n", b"GET\r\n\r\n", b"GET /x SPDY/9\r\n\r\n", b"GET x HTTP/1.1\r\n\r\n", b"\xff\xfe a b\r\n\r\n",
     b"GET http://[ HTTP/1.1\r\n\r\n", b"GET /" + b"x" * 40_000],
)  # fmt: skip
def test_what_is_no_request_is_answered_as_such(tmp_path: Path, sent: bytes) -> None:
    async def use(path: Path, *_: object) -> Any:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(sent)
        said = await reader.read()
        writer.close()
        assert (await call(path, "GET", "/status"))["path"] == "/status"
        return said

    assert with_server(tmp_path / "socket", use).startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize(
    ("said", "status"),
    [(b"HTTP/1.1 200 OK\r\n", 200), (b"HTTP/1.0 404\r\n", 404), (b"HTTP/1.1 301 \n", 301)],
)
def test_status_lines(said: bytes, status: int) -> None:
    assert web.parse_status(said) == status


@pytest.mark.parametrize(
    "said", [b"", b"\r\n", b"SSH-2.0-x\r\n", b"HTTP/1.1\r\n", b"HTTP/1.1 2000 OK\r\n", b"HTTP/1.1 xx \r\n"]
)
def test_what_is_no_status_line(said: bytes) -> None:
    with pytest.raises(web.WebError):
        web.parse_status(said)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000])
def test_heads_without_an_end(said: bytes) -> None:
    async def main() -> None:
        async def server(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(said)
            writer.close()

        async with await asyncio.start_server(server, "127.0.0.1", 0) as made:
            reader, writer = await asyncio.open_connection(*made.sockets[0].getsockname())
            try:
                await web.ask(reader, writer, "GET", "/", "x")
            finally:
                writer.close()

    with pytest.raises((web.WebError, OSError)):
        asyncio.run(main())


def test_nothing_of_a_path_gets_out_of_the_request_line() -> None:
    async def main() -> bytes:
        heard = asyncio.get_running_loop().create_future()

        async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.set_result(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(server, "127.0.0.1", 0) as made:
            reader, writer = await asyncio.open_connection(*made.sockets[0].getsockname())
            assert await web.ask(reader, writer, "GET", "/a b\r\nX: y?q=1%20&z", "x") == 204
            writer.close()
            return bytes(await heard)

    assert asyncio.run(main()).startswith(b"GET /a%20b%0D%0AX:%20y?q=1%20&z HTTP/1.1\r\nHost: x\r\n")
