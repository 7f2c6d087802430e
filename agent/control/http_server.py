# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 on a unix socket, or TCP: one request on each connection, then its response, which may be an endless stream.

Owns sockets, tasks and timeouts; the protocol is h11's (RFC 9112), what is answered is server.py's. h11 costs an agent
0.2 MB and 8 ms; a web framework (aiohttp) costs 10 MB and 0.1 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import h11

from bgp.peercred import peer_uid

HEAD_LIMIT = 16 * 1024
"""The most bytes of a request's line and header fields."""
HEAD_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 10.0
"""How long a client may take to read its response."""
STOP_TIMEOUT_S = 1.0
"""How long a response may take to complete once the server stops."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request without its body. Of several query fields with one name the last counts."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    uid: int = 0
    """The user that asks, as the kernel attests it (SO_PEERCRED)."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole body, or `lines` that are sent as they come, for as long as the client is connected."""

    status: int
    body: bytes = b""
    content_type: str = "application/json; charset=utf-8"
    lines: AsyncGenerator[bytes, None] | None = None


Handler = Callable[[Request], Response | Awaitable[Response]]
Routes = Mapping[tuple[str, str], Handler]
"""Handlers by method and path."""


def json_response(body: object, status: int = 200) -> Response:
    """Return a response of one JSON value."""
    return Response(status, json.dumps(body).encode())


class HttpServer:
    """Answers every request on a unix socket by `handle`, which must not raise."""

    def __init__(self, handle: Callable[[Request], Awaitable[Response]]) -> None:
        self._handle = handle
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._stopped = False

    async def start(self, path: Path) -> None:
        """Listen. Raises OSError."""
        self._server = await asyncio.start_unix_server(self._accept, path)

    async def start_tcp(self, host: str, port: int) -> None:
        """Listen on TCP instead. Raises OSError."""
        self._server = await asyncio.start_server(self._accept, host, port)

    async def stop(self) -> None:
        """Stop listening, give responses `STOP_TIMEOUT_S` to complete and end the others, endless ones among them."""
        self._stopped = True
        if self._server is not None:
            self._server.close()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=STOP_TIMEOUT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._stopped:  # the event loop accepted it before, and calls this only now
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read the request and respond, unless the client disconnects first."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        async with _closing(writer):
            try:
                async with asyncio.timeout(HEAD_TIMEOUT_S):
                    request = await _receive(connection, reader, peer_uid(writer.get_extra_info("socket")))
            except h11.RemoteProtocolError as error:
                with contextlib.suppress(OSError):
                    await _send(connection, writer, json_response({"error": f"not a request: {error}"}, 400))
                return
            except (OSError, TimeoutError):
                return
            if request is None:
                return
            responding = asyncio.create_task(self._respond(connection, writer, request))
            disconnect = asyncio.create_task(_wait_for_end(reader))
            try:
                await asyncio.wait((responding, disconnect), return_when=asyncio.FIRST_COMPLETED)
            finally:
                disconnect.cancel()
                if not responding.done():
                    responding.cancel()
                await asyncio.gather(responding, disconnect, return_exceptions=True)

    async def _respond(self, connection: h11.Connection, writer: asyncio.StreamWriter, request: Request) -> None:
        with contextlib.suppress(OSError):
            response = await self._handle(request)
            await _send(connection, writer, response, with_body=request.method != "HEAD")


@contextlib.asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Close the connection, once the client has read what was sent; `CLOSE_TIMEOUT_S` at most."""
    try:
        yield
        writer.close()
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        pass
    finally:
        writer.transport.abort()


async def _receive(connection: h11.Connection, reader: asyncio.StreamReader, uid: int) -> Request | None:
    """Return the request, None if the client sends none. Raises h11.RemoteProtocolError, OSError."""
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await reader.read(HEAD_LIMIT))
    if not isinstance(event, h11.Request):
        return None
    try:
        target = urlsplit(event.target.decode("ascii"))
    except ValueError:
        target = urlsplit("")
    if not target.path.startswith("/"):
        raise h11.RemoteProtocolError("the target is not a path")
    query = dict(parse_qsl(target.query, keep_blank_values=True))
    return Request(event.method.decode("ascii"), unquote(target.path), query, uid)


async def _send(
    connection: h11.Connection, writer: asyncio.StreamWriter, response: Response, with_body: bool = True
) -> None:
    headers = [("Content-Type", response.content_type), ("Connection", "close")]
    if response.lines is None:  # without a length h11 sends chunks
        headers.append(("Content-Length", str(len(response.body))))
    head = h11.Response(
        status_code=response.status, headers=headers, reason=HTTPStatus(response.status).phrase.encode()
    )
    writer.write(connection.send(head) or b"")
    if with_body and response.lines is None:
        writer.write(connection.send(h11.Data(data=response.body)) or b"")
    elif with_body and response.lines is not None:
        await writer.drain()
        async with contextlib.aclosing(response.lines) as lines:
            async for line in lines:
                writer.write(connection.send(h11.Data(data=line)) or b"")
                await writer.drain()
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    await writer.drain()


async def _wait_for_end(reader: asyncio.StreamReader) -> None:
    """Return when the client has disconnected; what it still sends, as a body, is dropped."""
    with contextlib.suppress(OSError):
        while await reader.read(HEAD_LIMIT):
            pass
