# SPDX-License-Identifier: Apache-2.0
"""The agent's end of the relay's socket, on asyncio.

Owns the connection: opens it, checks the user at the other end, and reconnects after a loss. Does not decide which
routes are desired, and sends no heartbeats of its own: each `send_desired` is one, so that an agent whose planner hangs
falls silent and the relay's dead-man acts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from pathlib import Path

from bgp.errors import BgpError
from bgp.peercred import peer_uid
from bgp.relay.protocol import MAX_REPORT_BYTES, REPLACED, AgentStop, DesiredRoutes, Goodbye, Snapshot
from bgp.relay.report import ReportReader
from bgp.route import Route

RETRY_S = 0.2
"""Between two attempts to connect: a killed relay is back after about this time."""
REPLACED_RETRY_S = 10.0
"""After another agent replaced us: long enough not to compete with it for the routes."""
FRESH_S = 2.0
"""Desired routes older than this are not sent on reconnecting: they would be a heartbeat without a planner."""


class RelayClient:
    """A connection to the relay, kept open while `run` runs.

    `uids`: the users that may serve the socket (the BGP user, and root). `on_snapshot` is called, in the loop, with
    each snapshot. `snapshot` is the last one; it outlives the connection, and is None before the first. What did not
    change within a connection is the same object in the next one (protocol.Peer). `error`: why there is no connection,
    or None.
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
        self._desired = DesiredRoutes()
        self._encoded = b""
        self._desired_at = 0.0
        self._stopping = False

    @property
    def connected(self) -> bool:
        """Whether there is a connection, and the relay runs as an expected user."""
        return self._writer is not None

    def send_desired(self, desired: Iterable[Route], fallback: Iterable[Route], announcers: Iterable[str] = ()) -> None:
        """Send all desired routes, and the fallback for when we are silent for 10 s (protocol.DesiredRoutes).

        Call it at least once a second: each call is sent, as the heartbeat. It never blocks; without a connection the
        last routes are kept, and sent on reconnecting if they are fresh. They are encoded when they change; tuples that
        are passed again compare fastest.
        """
        routes = DesiredRoutes(tuple(desired), tuple(fallback), tuple(announcers))
        if not self._encoded or routes != self._desired:
            self._desired, self._encoded = routes, routes.encode()
        self._desired_at = asyncio.get_running_loop().time()
        self._send()

    def send_stop(self) -> None:
        """Send that this agent ends and no other follows: no desired routes after it.

        Without a connection it is sent on connecting, after desired routes that are fresh.
        """
        self._stopping = True
        if self._writer is not None:
            self._writer.write(AgentStop().encode())

    async def run(self) -> None:
        """Connect, receive and reconnect until canceled."""
        while True:
            delay = RETRY_S
            try:
                async with self._connection() as reader:
                    await self._receive(reader)
            except _ReplacedError as problem:
                self.error, delay = str(problem), REPLACED_RETRY_S
            except (BgpError, OSError, ValueError) as problem:
                self.error = f"relay {self._path}: {getattr(problem, 'strerror', None) or problem}"
            await asyncio.sleep(delay)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncio.StreamReader]:
        reader, writer = await asyncio.open_unix_connection(str(self._path), limit=MAX_REPORT_BYTES)
        try:
            uid = peer_uid(writer.get_extra_info("socket"))
            if uid not in self._uids:
                allowed = ", ".join(map(str, sorted(self._uids)))
                raise BgpError(f"served by uid {uid}, not by {allowed}: connection closed")
            self._writer, self.error = writer, None
            if asyncio.get_running_loop().time() - self._desired_at < FRESH_S:
                self._send()
            if self._stopping:
                self.send_stop()
            yield reader
        finally:
            self._writer = None
            writer.close()

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        reports = ReportReader()
        while line := await reader.readline():
            report = reports.receive(line)
            if isinstance(report, Goodbye):
                error = f"relay {self._path}: {report.reason}"
                raise _ReplacedError(error) if report.reason == REPLACED else BgpError(report.reason)
            if report is not None:
                self.snapshot = report
                self._on_snapshot(report)
        raise BgpError("closed the connection")

    def _send(self) -> None:
        writer = self._writer
        # The relay has not read the last message: it hangs, and another one would only fill memory.
        if writer is None or not self._encoded or writer.transport.get_write_buffer_size() > 0:
            return
        writer.write(self._encoded)


class _ReplacedError(BgpError):
    """Another agent connected and replaced this one."""
