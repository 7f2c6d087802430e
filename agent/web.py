# SPDX-License-Identifier: Apache-2.0
"""As much of HTTP/1.1 (RFC 9112) as the agent speaks: one request without a body on each connection, then its answer.

Owns the server of the control socket, and asking for a head or a whole answer. A web framework would do that too, for
14 MB of a daemon and a tenth of a second of each start. What is here:

- Requests are a line and header fields up to an empty line, 16 KB at most; a body is not waited for (section 6.3, 7).
- Answers end with the connection (section 6.3, 8), so they need no length and may go on for ever.
- Header fields are passed over but for their end: nothing here depends on one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

log = logging.getLogger("anylb")
HEAD_LIMIT = 16 * 1024
LINE_LIMIT = 16 * 1024 * 1024
"""Of an answer's lines: a status of a thousand nodes is one of some hundred KB."""
HEAD_S = 10.0
GRACE_S = 1.0
"""How long answers that are being made may take once the server is to end."""


class WebError(Exception):
    """The other end does not speak HTTP, or not to its end."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for; of a query's fields with one name the last."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """`lines` follow the body as they come, for as long as the client is there."""

    status: int
    body: bytes = b""
    kind: str = "application/json; charset=utf-8"
    lines: AsyncGenerator[bytes, None] | None = None


Handler = Callable[[Request], Awaitable[Answer]]
Routes = Mapping[tuple[str, str], Handler]
"""By method and path."""


def json_answer(body: object, status: int = 200) -> Answer:
    """An answer of one JSON value."""
    return Answer(status, json.dumps(body).encode())


class Server:
    """Answers on a unix socket, every request by `handle`, which must not raise."""

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, path: Path) -> None:
        """Listen. Raises OSError."""
        self._server = await asyncio.start_unix_server(self._connected, path, limit=HEAD_LIMIT)

    async def stop(self) -> None:
        """Listen no longer, and end what goes on for ever; answers that are nearly made are still sent."""
        if self._server is not None:
            self._server.close()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._converse(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hear the request and answer it, unless the client hangs up before."""
        with contextlib.closing(writer):
            try:
                async with asyncio.timeout(HEAD_S):
                    request = parse_request(await reader.readuntil(b"\r\n\r\n"))
            except (WebError, asyncio.LimitOverrunError) as error:
                with contextlib.suppress(OSError):
                    await _send(writer, json_answer({"error": f"not a request: {error}"}, 400))
                return
            except (OSError, EOFError, TimeoutError):
                return
            answering = asyncio.create_task(self._answer(request, writer))
            leaving = asyncio.create_task(_end_of(reader))
            try:
                await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            finally:
                leaving.cancel()
                if not answering.done():
                    answering.cancel()
                await asyncio.gather(answering, leaving, return_exceptions=True)

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            answer = await self._handle(request)
            await _send(writer, answer)
            if answer.lines is not None:
                async with contextlib.aclosing(answer.lines) as lines:
                    async for line in lines:
                        writer.write(line)
                        await writer.drain()


async def _end_of(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(HEAD_LIMIT):
            pass


async def _send(writer: asyncio.StreamWriter, answer: Answer) -> None:
    reason = HTTPStatus(answer.status).phrase
    head = f"HTTP/1.1 {answer.status} {reason}\r\nContent-Type: {answer.kind}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + answer.body)
    await writer.drain()


def parse_request(head: bytes) -> Request:
    """Read a request's line (RFC 9112 section 3). Raises WebError."""
    try:
        method, target, version = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
        parts = urlsplit(target)
    except ValueError:
        raise WebError("its first line is no request line") from None
    if not version.startswith("HTTP/1.") or not parts.path.startswith("/"):
        raise WebError("its first line is no request line of HTTP/1.1")
    return Request(method, unquote(parts.path), dict(parse_qsl(parts.query, keep_blank_values=True)))


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str, host: str,
    query: Mapping[str, str] | None = None,
) -> int:  # fmt: skip
    """Ask, and read the answer's head; return its status. Its body is what the reader has next. WebError, OSError."""
    target = quote(path, safe="/%?&=:@!$'()*+,;~") + (f"?{urlencode(query)}" if query else "")
    writer.write(
        f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: anylb\r\nAccept: */*\r\nConnection: close\r\n"
        "\r\n".encode()
    )
    await writer.drain()
    status = 100
    while 100 <= status < 200:  # an interim answer (RFC 9110 section 15.2) comes before the one
        status = parse_status(await _head(reader))
    return status


async def _head(reader: asyncio.StreamReader) -> bytes:
    """Read up to the empty line; lines may end without a CR (RFC 9112 section 2.2)."""
    head = b""
    try:
        while not head.endswith((b"\n\r\n", b"\n\n")):
            head += await reader.readuntil(b"\n")
            if len(head) > HEAD_LIMIT:
                raise WebError("the head of the answer has no end")
    except asyncio.IncompleteReadError:
        raise WebError("the connection was closed before an answer") from None
    except asyncio.LimitOverrunError:
        raise WebError("the head of the answer has no end") from None
    return head


def parse_status(head: bytes) -> int:
    """Read a status line (RFC 9112 section 4). Raises WebError."""
    version, _, rest = head.partition(b" ")
    if not version.startswith(b"HTTP/") or not rest[:3].isdigit() or rest[3:4] not in (b" ", b"\r", b"\n"):
        raise WebError("the answer is not HTTP")
    return int(rest[:3])


async def json_of(reader: asyncio.StreamReader) -> Any:
    """The rest of an answer, one JSON value. Raises WebError."""
    try:
        return json.loads(await reader.read())
    except ValueError:
        raise WebError("the answer is not JSON, or was cut off") from None
