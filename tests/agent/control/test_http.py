# SPDX-License-Identifier: Apache-2.0
"""The control socket's HTTP: lbctl's client against the server, and the server against what is not HTTP."""

import asyncio
import http.client
import json
import os
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from agent.cli.client import call, follow
from agent.control.http_server import HttpServer, Request, Response, json_response
from agent.errors import AgentError, NotRunningError


class EchoServer:
    """Responds with the request."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.asked_slow = asyncio.Event()

    async def respond(self, request: Request) -> Response:
        match request.path:
            case "/refuse":
                return json_response({"error": "no"}, 409)
            case "/watch":
                return Response(200, content_type="application/x-ndjson", lines=self._lines())
            case "/two":
                return Response(200, content_type="application/x-ndjson", lines=self._two())
            case "/text":
                return Response(200, b"text")
            case "/slow":
                self.asked_slow.set()
                await asyncio.sleep(0.2)
        return json_response({"method": request.method, "path": request.path, "query": dict(request.query)})

    async def _two(self) -> AsyncGenerator[bytes, None]:
        yield b'{"number": 0}\n{"num'
        yield b'ber": 1}\n'

    async def _lines(self) -> AsyncGenerator[bytes, None]:
        try:
            for number in range(3):
                yield json.dumps({"number": number}).encode() + b"\n"
            await asyncio.Event().wait()
        finally:
            self.ended.set()


def with_server(path: Path, use: Any) -> Any:
    async def main() -> Any:
        echo = EchoServer()
        server = HttpServer(echo.respond)
        await server.start(path)
        try:
            return await use(path, echo, server)
        finally:
            await server.stop()

    return asyncio.run(main())


def ask(path: Path, method: str, resource: str, **query: str) -> Any:
    """What lbctl gets; a coroutine, so that the server can run."""
    return asyncio.to_thread(call, path, method, resource, **query)


def test_a_request_and_its_response(tmp_path: Path) -> None:
    async def use(path: Path, *_: object) -> Any:
        return await ask(path, "POST", "/announce/drain", reason="a & b = c, 50 %\u20ac", force="")

    assert with_server(tmp_path / "socket", use) == {
        "method": "POST",
        "path": "/announce/drain",
        "query": {"reason": "a & b = c, 50 %\u20ac", "force": ""},
    }


def test_a_head_request_gets_no_body(tmp_path: Path) -> None:
    def head(path: Path) -> tuple[int, bytes]:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"HEAD /status HTTP/1.1\r\nHost: x\r\n\r\n")
            response = http.client.HTTPResponse(client, method="HEAD")
            response.begin()
            rest = client.recv(1)
        return response.status, rest

    async def use(path: Path, *_: object) -> Any:
        return await asyncio.to_thread(head, path)

    assert with_server(tmp_path / "socket", use) == (200, b"")


def test_a_client_of_http_1_0(tmp_path: Path) -> None:
    async def use(path: Path, *_: object) -> Any:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /two HTTP/1.0\r\n\r\n")
        response = await reader.read()
        writer.close()
        return response.partition(b"\r\n\r\n")[2]

    assert with_server(tmp_path / "socket", use) == b'{"number": 0}\n{"number": 1}\n'


def test_refused_and_no_agent(tmp_path: Path) -> None:
    async def use(path: Path, *_: object) -> Any:
        await ask(path, "GET", "/refuse")

    with pytest.raises(AgentError, match=r"^no$"):
        with_server(tmp_path / "socket", use)
    with pytest.raises(NotRunningError, match="no agent answers"):
        call(tmp_path / "nothing", "GET", "/status")
    with pytest.raises(NotRunningError, match="no agent answers"):
        next(follow(tmp_path / "nothing", "/watch"))


def test_refused_watch(tmp_path: Path) -> None:
    async def use(path: Path, *_: object) -> Any:
        await asyncio.to_thread(next, follow(path, "/refuse"))

    with pytest.raises(AgentError, match=r"^no$"):
        with_server(tmp_path / "socket", use)


def test_a_response_that_is_not_json(tmp_path: Path) -> None:
    async def use(path: Path, *_: object) -> Any:
        await ask(path, "GET", "/text")

    with pytest.raises(NotRunningError, match="is not JSON, or is incomplete"):
        with_server(tmp_path / "socket", use)


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"", "does not answer"),
        (b"SSH-2.0-x\r\n", "does not answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "is incomplete"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}", "is incomplete"),
    ],
)
def test_an_agent_that_breaks_off(tmp_path: Path, sent: bytes, why: str) -> None:
    async def main() -> None:
        async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(sent)
            writer.close()

        async with await asyncio.start_unix_server(agent, tmp_path / "socket"):
            await ask(tmp_path / "socket", "GET", "/status")

    with pytest.raises(NotRunningError, match=why):
        asyncio.run(main())


def test_an_agent_that_does_not_respond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.cli.client.TIMEOUT_S", 0.2)
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "socket"))
        agent.listen()
        with pytest.raises(NotRunningError, match=r"does not answer \(timed out\)"):
            call(tmp_path / "socket", "GET", "/status")


def test_lines_come_until_the_client_leaves(tmp_path: Path) -> None:
    async def use(path: Path, echo: EchoServer, _: object) -> Any:
        lines = follow(path, "/watch")
        numbers = [(await asyncio.to_thread(next, lines))["number"] for _ in range(3)]
        assert not echo.ended.is_set()
        lines.close()  # type: ignore[attr-defined]
        await asyncio.wait_for(echo.ended.wait(), 15)
        return numbers

    assert with_server(tmp_path / "socket", use) == [0, 1, 2]


@pytest.mark.slow
def test_watching_waits_longer_than_a_response_may_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.cli.client.TIMEOUT_S", 0.2)
    monkeypatch.setattr("agent.control.http_server.STOP_TIMEOUT_S", 0)

    async def use(path: Path, _: object, server: HttpServer) -> Any:
        lines = asyncio.create_task(asyncio.to_thread(list, follow(path, "/watch")))
        await asyncio.sleep(0.6)
        assert not lines.done()
        await server.stop()
        with pytest.raises(NotRunningError, match="has ended"):
            await lines

    with_server(tmp_path / "socket", use)


def test_lines_that_arrive_in_parts_and_end(tmp_path: Path) -> None:
    async def use(path: Path, *_: object) -> Any:
        lines = follow(path, "/two")
        found = [await asyncio.to_thread(next, lines) for _ in range(2)]
        with pytest.raises(NotRunningError, match="has ended"):
            await asyncio.to_thread(next, lines)
        return found

    assert with_server(tmp_path / "socket", use) == [{"number": 0}, {"number": 1}]


@pytest.mark.slow
def test_a_server_that_stops_ends_watches_and_completes_responses(tmp_path: Path) -> None:
    async def use(path: Path, echo: EchoServer, server: HttpServer) -> Any:
        lines = follow(path, "/watch")
        await asyncio.to_thread(next, lines)
        slow = asyncio.create_task(ask(path, "GET", "/slow"))
        await echo.asked_slow.wait()
        await server.stop()
        assert echo.ended.is_set()
        with pytest.raises(NotRunningError, match="has ended"):
            await asyncio.to_thread(list, lines)
        return await slow

    assert with_server(tmp_path / "socket", use)["path"] == "/slow"


@pytest.mark.parametrize("passes", range(8))
def test_no_request_is_handled_after_the_stop(tmp_path: Path, passes: int) -> None:
    """However far a connection is in the event loop when the server stops."""

    async def main() -> None:
        stopped, late = False, []

        async def respond(request: Request) -> Response:
            if stopped:
                late.append(request)
            return json_response({})

        server = HttpServer(respond)
        await server.start(tmp_path / "socket")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "socket"))
            client.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
            for _ in range(passes):
                await asyncio.sleep(0)
            await server.stop()
            stopped = True
            for _ in range(100):
                await asyncio.sleep(0)
        assert late == []

    asyncio.run(main())


@pytest.mark.parametrize(
    "sent",
    [b"nonsense\r\n\r\n", b"GET\r\n\r\n", b"GET /x SPDY/9\r\n\r\n", b"GET x HTTP/1.1\r\n\r\n", b"\xff\xfe a b\r\n\r\n",
     b"GET http://[ HTTP/1.1\r\n\r\n", b"GET /" + b"x" * 40_000],
)  # fmt: skip
def test_what_is_not_a_request_gets_400(tmp_path: Path, sent: bytes) -> None:
    async def use(path: Path, *_: object) -> Any:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(sent)
        response = await reader.read()
        writer.close()
        assert (await ask(path, "GET", "/status"))["path"] == "/status"
        return response

    assert with_server(tmp_path / "socket", use).startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_a_request_has_the_user_that_asks(tmp_path: Path) -> None:
    uids = []

    async def main() -> None:
        async def respond(request: Request) -> Response:
            uids.append(request.uid)
            return json_response({})

        server = HttpServer(respond)
        await server.start(tmp_path / "socket")
        await ask(tmp_path / "socket", "GET", "/")
        await server.stop()

    asyncio.run(main())
    assert uids == [os.getuid()]
