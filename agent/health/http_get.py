# SPDX-License-Identifier: Apache-2.0
"""One GET over an open connection, for its status alone. The protocol is h11's (RFC 9112)."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import h11

HEAD_LIMIT = 16 * 1024
"""The most bytes of a response's status line and header fields."""


class HttpError(Exception):
    """The service does not speak HTTP, or closes the connection before its response."""


async def get_status(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, host: str) -> int:
    """Return the status of the response, whose body is not read. Raises HttpError, OSError.

    Characters of `path` that a request line cannot have are quoted. Interim responses (RFC 9110 section 15.2) are
    skipped.
    """
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)
    request = h11.Request(
        method="GET",
        target=quote(path, safe="/%?&=:@!$'()*+,;~"),
        headers=[("Host", host), ("User-Agent", "anylb"), ("Accept", "*/*"), ("Connection", "close")],
    )
    writer.write((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
    await writer.drain()
    try:
        while not isinstance(event := connection.next_event(), h11.Response):
            if event is h11.NEED_DATA:
                data = await reader.read(HEAD_LIMIT)
                if not data:
                    raise HttpError("the connection was closed before a response")
                connection.receive_data(data)
    except h11.RemoteProtocolError as error:
        raise HttpError(f"not an HTTP response: {error}") from None
    return event.status_code
