# SPDX-License-Identifier: Apache-2.0
"""A GET, and whether its response is as expected. The protocol is h11's (RFC 9112)."""

from __future__ import annotations

from urllib.parse import quote

import h11

from agent.config.health import HttpCheckConfig, HttpsCheckConfig
from agent.health.connection import Channel, Connect
from agent.health.failure import ProbeFailed, shown
from agent.health.tls import TlsConnection, context_of

HEAD_LIMIT = 16 * 1024
"""The most bytes of a response's status line and header fields."""
INTERIM_LIMIT = 16
"""The most interim responses (RFC 9110 section 15.2), which a service may otherwise send without end."""


async def probe_http(connect: Connect, host: str, check: HttpCheckConfig) -> str:
    """Return the status of a response that is as expected. Raises ProbeFailed, OSError.

    `host`: the Host header if the check names none. A redirect is not followed: it is the service itself that answered.
    """
    name = check.name if isinstance(check, HttpsCheckConfig) else None
    async with connect() as connection:
        channel: Channel = connection
        if isinstance(check, HttpsCheckConfig):
            channel = tls = TlsConnection(connection, context_of(check.verify, check.ca_file), name)
            await tls.handshake()
        response = Response(channel)
        status = await response.status(check.path, check.host or name or host)
        if not any(low <= status <= high for low, high in check.expect.status):
            raise ProbeFailed(f"HTTP {status}, expected {_text(check.expect.status)}")
        if check.expect.body is not None and not await response.contains(check.expect.body.encode()):
            raise ProbeFailed(f"HTTP {status}, its body does not contain '{shown(check.expect.body)}'")
    return f"HTTP {status}"


class Response:
    """The response to one GET, read as far as it is asked for. Methods raise ProbeFailed, OSError."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)

    async def status(self, path: str, host: str) -> int:
        """Send the request and return the status. What a request line cannot have in `path` is quoted."""
        request = h11.Request(
            method="GET",
            target=quote(path, safe="/%?&=:@!$'()*+,;~"),
            headers=[("Host", host), ("User-Agent", "anylb"), ("Accept", "*/*"), ("Connection", "close")],
        )
        head = (self._protocol.send(request) or b"") + (self._protocol.send(h11.EndOfMessage()) or b"")
        await self._channel.send(head)
        for _ in range(INTERIM_LIMIT + 1):
            if isinstance(event := await self._next_event(), h11.Response):
                return event.status_code
        raise ProbeFailed(f"more than {INTERIM_LIMIT} interim responses")

    async def contains(self, text: bytes) -> bool:
        """Return whether the body contains a text, which is looked for in its first 64 KiB."""
        body = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            searched = max(0, len(body) - len(text))
            body += event.data
            if body.find(text, searched) >= 0:
                return True
        return False

    async def _next_event(self) -> object:
        ended = False
        try:
            while (event := self._protocol.next_event()) is h11.NEED_DATA:
                data = await self._channel.receive()
                ended = not data
                self._protocol.receive_data(data)
        except h11.RemoteProtocolError as error:
            if ended:
                raise ProbeFailed("the connection was closed before the end of the response") from None
            raise ProbeFailed(f"not an HTTP response: {shown(str(error))}") from None
        return event


def _text(ranges: tuple[tuple[int, int], ...]) -> str:
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
