# SPDX-License-Identifier: Apache-2.0
"""The relay's end of the connection of one agent. It never blocks, whatever the agent reads or sends.

What changes while the agent has not read the last batch goes into the next one, and a batch is encoded as the agent
reads it. So an agent that reads slowly gets fewer batches and always the newest state, and at most two states of the
routes and a few lines wait for it.

Standard library only: the relay archive carries this file.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from bgp.relay.protocol import MAX_DESIRED_BYTES, AgentStop, DesiredRoutes, Snapshot, decode_from_agent
from bgp.relay.report import encode_changes, encode_goodbye

_CHUNK = 1 << 16


class Hangup(Exception):
    """The relay must close the agent's connection; the text, if any, is the reason that it sends."""


class AgentConnection:
    """The connection of one agent: reads complete lines, and sends as much as the agent reads.

    `reported` is the state that it has when it has read all.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.reported = Snapshot()
        self._received = bytearray()
        self._batch: Iterator[bytes] | None = None
        self._unsent = b""
        self._line: bytes | None = None
        self._message: DesiredRoutes | AgentStop = DesiredRoutes()

    @property
    def busy(self) -> bool:
        """Whether a part of the last batch is still unsent."""
        return bool(self._unsent) or self._batch is not None

    def read(self) -> list[DesiredRoutes | AgentStop]:
        """Return the messages received. Hangup at end of file or if a line is too long, BgpError if it is malformed."""
        with contextlib.suppress(BlockingIOError):
            data = self.connection.recv(_CHUNK)
            if not data:
                raise Hangup
            self._received += data
        *lines, rest = self._received.split(b"\n")
        if len(rest) > MAX_DESIRED_BYTES:
            raise Hangup(f"line longer than {MAX_DESIRED_BYTES} bytes")
        self._received = rest
        return [self._decode(bytes(line)) for line in lines]

    def _decode(self, line: bytes) -> DesiredRoutes | AgentStop:
        """Decode a line, which most often is the same as the last one."""
        if line != self._line:
            self._message = decode_from_agent(line)
            self._line = line
        return self._message

    def report(self, snapshot: Snapshot) -> None:
        """Begin a batch: what has changed since the last one."""
        self._batch = encode_changes(self.reported, snapshot)
        self.reported = snapshot
        self.send()

    def send(self) -> None:
        """Send as much as the socket accepts, a chunk at most: ExaBGP must not wait until a large batch is encoded."""
        while self._batch is not None and len(self._unsent) < _CHUNK:
            line = next(self._batch, None)
            if line is None:
                self._batch = None
            else:
                self._unsent += line
        if self._unsent:
            try:
                self._unsent = self._unsent[self.connection.send(self._unsent) :]
            except BlockingIOError:
                pass
            except OSError:  # the agent has closed its end; what it sent before is still to be read, up to its end
                self._batch, self._unsent = None, b""

    def close(self, reason: str = "") -> None:
        """Close the connection, and send the reason if the socket accepts it."""
        if reason and not self.busy:
            with contextlib.suppress(OSError):
                self.connection.send(encode_goodbye(reason))
        self.connection.close()
