# SPDX-License-Identifier: Apache-2.0
"""The agent's end of the relay's socket, on asyncio.

Owns the connection: finding it, checking who is at the other end, and coming back after a loss. Does not decide what
is announced, and does not send heartbeats of its own: each `desire` is one, so that an agent whose planner hangs
falls silent and the relay's dead-man takes over.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from pathlib import Path

from bgp.errors import BgpError
from bgp.peercred import peer_uid
from bgp.relay.protocol import MAX_LINE_BYTES, REPLACED, DesiredRoutes, Goodbye, Snapshot, decode_report
from bgp.route import Route

RETRY_S = 0.2
"""Between two attempts to connect: a killed relay is back within about this time."""
REPLACED_RETRY_S = 10.0
"""After another agent took our place: long enough not to fight it for the routes."""
FRESH_S = 2.0
"""A wish older than this is not repeated on reconnecting: it would be a heartbeat that the planner did not give."""


class RelayClient:
    """Keeps a connection to the relay while `run` runs.

    `uids`: who may serve the socket (the BGP user, and root). `on_snapshot` is called, in the loop, with each snapshot.
    `snapshot` is the last one; it outlives the connection, and is None before the first.
    `connected` says whether the relay listens now, `error` why not.
    """

    def __init__(
        self, path: Path, uids: Collection[int], on_snapshot: Callable[[Snapshot], None] = lambda _: None
    ) -> None:
        self.snapshot: Snapshot | None = None
        self.error: str | None = "not connected yet"
        self._path = path
        self._uids = frozenset(uids)
        self._on_snapshot = on_snapshot
        self._writer: asyncio.StreamWriter | None = None
        self._wish: bytes | None = None
        self._wished_at = 0.0

    @property
    def connected(self) -> bool:
        """Whether the relay is there and is who it should be."""
        return self._writer is not None

    def desire(self, desired: Iterable[Route], fallback: Iterable[Route], announcers: Iterable[str] = ()) -> None:
        """Say all that is to be announced, and what instead if we fall silent for 10 s (snapshot.Wish).

        Call it at least once a second: each call is sent, as the heartbeat. It never blocks; while the relay is
        away the last wish is kept, and sent on reconnecting if it is fresh.
        """
        self._wish = DesiredRoutes(tuple(desired), tuple(fallback), tuple(announcers)).encode()
        self._wished_at = asyncio.get_running_loop().time()
        self._send()

    async def run(self) -> None:
        """Connect, listen and reconnect until canceled."""
        while True:
            delay = RETRY_S
            try:
                async with self._connection() as reader:
                    await self._listen(reader)
            except _ReplacedError as problem:
                self.error, delay = str(problem), REPLACED_RETRY_S
            except (BgpError, OSError, ValueError) as problem:
                self.error = f"relay {self._path}: {getattr(problem, 'strerror', None) or problem}"
            await asyncio.sleep(delay)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncio.StreamReader]:
        reader, writer = await asyncio.open_unix_connection(str(self._path), limit=MAX_LINE_BYTES)
        try:
            uid = peer_uid(writer.get_extra_info("socket"))
            if uid not in self._uids:
                allowed = ", ".join(map(str, sorted(self._uids)))
                raise BgpError(f"served by uid {uid}, not by {allowed}: refusing to talk to it")
            self._writer, self.error = writer, None
            if asyncio.get_running_loop().time() - self._wished_at < FRESH_S:
                self._send()
            yield reader
        finally:
            self._writer = None
            writer.close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            report = decode_report(line)
            if isinstance(report, Goodbye):
                error = f"relay {self._path}: {report.why}"
                raise _ReplacedError(error) if report.why == REPLACED else BgpError(report.why)
            self.snapshot = report
            self._on_snapshot(report)
        raise BgpError("closed the connection")

    def _send(self) -> None:
        writer = self._writer
        # Nothing of the last wish was taken yet: the relay hangs, and more of the same would only fill memory.
        if writer is None or self._wish is None or writer.transport.get_write_buffer_size() > 0:
            return
        writer.write(self._wish)


class _ReplacedError(BgpError):
    """Another agent has connected."""
