# SPDX-License-Identifier: Apache-2.0
"""The client's sockets: connects, sends, receives and closes for connection.py's connections, which judge themselves.

Owns sockets and their epoll set; neither the clock (`now`, seconds of CLOCK_MONOTONIC, comes from the loop in
__main__.py) nor the judgment.
"""

import errno
import select
import socket
import sys
from collections import deque
from collections.abc import Iterator

from topology.traffic.connection import (
    ATTEMPT_S,
    INTERVAL_S,
    SILENCE_S,
    ConnectionAttempt,
    ConnectionState,
    HeldConnection,
)

#: The loop's step. Held connections are spread over the steps of one interval, so that they do not send in bursts.
TICK_S = 0.01
GROUPS = round(INTERVAL_S / TICK_S)
#: How many held connections one step opens at most: 400 in a fifth of a second.
OPEN_PER_TICK = 20
#: Source ports count up from here. None repeats within a TIME-WAIT (60 s): 256 addresses times 40,000 ports.
FIRST_PORT = 15000
REASON = {errno.ECONNRESET: "reset", errno.EPIPE: "reset", errno.ECONNREFUSED: "refused", errno.ETIMEDOUT: "timeout"}
#: SO_LINGER on, 0 s: close() sends RST instead of FIN, and no socket goes on sending.
ABORT = (1).to_bytes(4, sys.byteorder) + (0).to_bytes(4, sys.byteorder)


def reason(code: int | None) -> str:
    """Return the reason of a broken connection for a socket's error."""
    return REASON.get(code or 0) or errno.errorcode.get(code or 0, "error")


def sources(prefix: str, offset: int = 0) -> Iterator[tuple[str, int]]:
    """Yield source (address, port) pairs, none twice: every address of `prefix` (three octets) before the next port.

    `offset` moves the first port, so that a second client in the same namespace avoids the first one's
    TIME-WAIT sockets.
    """
    for port in range(FIRST_PORT + offset, 65536):
        for last in range(256):
            yield f"{prefix}.{last}", port


class ClientSockets:
    """All connections of a client, held and new, over one epoll set."""

    def __init__(
        self,
        target: tuple[str, int],
        source: Iterator[tuple[str, int]],
        epoll: select.epoll,
        silence_s: float = SILENCE_S,
        attempt_s: float = ATTEMPT_S,
    ) -> None:
        """A held connection without an answer for `silence_s` is broken; a new one fails after `attempt_s`."""
        self.held: list[HeldConnection] = []
        self.attempts: list[ConnectionAttempt] = []
        #: The number of held connections that are not opened yet.
        self.to_open = 0
        #: Rate of new connections.
        self.fresh_per_s = 0.0
        self._target = target
        self._source = source
        self._epoll = epoll
        self._silence_s, self._attempt_s = silence_s, attempt_s
        self._sockets: dict[int, socket.socket] = {}
        self._connections: dict[int, HeldConnection | ConnectionAttempt] = {}
        self._connecting: set[int] = set()
        self._groups: list[dict[int, HeldConnection]] = [{} for _ in range(GROUPS)]
        self._pending: deque[tuple[int, ConnectionAttempt]] = deque()  # by start, so by deadline too
        #: What a socket would not take: its buffer is full while a server gives no answer for long.
        self._unsent: dict[int, bytes] = {}
        self._due = 0.0  # how many new connections are due, with the fraction
        self._tick = 0

    def begin(self) -> None:
        """Drop connections that have ended."""
        self.held = [held for held in self.held if held.live]
        self.attempts = [attempt for attempt in self.attempts if not attempt.outcome]

    def close(self, owner: str | None, now: float) -> int:
        """Close the held connections of a server, or all of them; return how many."""
        closing = [
            (d, connection)
            for d, connection in self._connections.items()
            if isinstance(connection, HeldConnection) and owner in (None, connection.owner)
        ]
        for descriptor, held in closing:
            held.close(now)
            self._end(descriptor)
        return len(closing)

    def tick(self, now: float) -> None:
        """Do the work of one step of the loop: send, open, check deadlines."""
        group = self._groups[self._tick % GROUPS]
        for descriptor, held in list(group.items()):
            held.check(now, self._silence_s, self._attempt_s)
            if held.state is ConnectionState.OPEN:
                self._send(descriptor, held.message(now), now)
            elif not held.live:
                self._end(descriptor)
        for _ in range(min(self.to_open, OPEN_PER_TICK)):
            self.to_open -= 1
            self._start(HeldConnection(now), now)
        self._due += self.fresh_per_s * TICK_S
        while self._due >= 1:
            self._due -= 1
            self._start(ConnectionAttempt(now), now)
        while self._pending and (self._pending[0][1].outcome or self._overdue(*self._pending[0], now)):
            self._pending.popleft()
        self._tick += 1

    def _overdue(self, descriptor: int, attempt: ConnectionAttempt, now: float) -> bool:
        attempt.check(now, self._attempt_s)
        if attempt.outcome:
            self._end(descriptor)
        return bool(attempt.outcome)

    def _start(self, connection: HeldConnection | ConnectionAttempt, now: float) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        descriptor = sock.fileno()
        self._sockets[descriptor] = sock
        self._connections[descriptor] = connection
        if isinstance(connection, HeldConnection):
            self.held.append(connection)
            self._groups[len(self.held) % GROUPS][descriptor] = connection
        else:
            self.attempts.append(connection)
            self._pending.append((descriptor, connection))
        address, port = next(self._source)
        if isinstance(connection, HeldConnection):
            connection.source = f"{address}:{port}"
        try:
            sock.bind((address, port))
            code = sock.connect_ex(self._target)
        except OSError as error:
            code = error.errno or errno.EIO
        if code not in (0, errno.EINPROGRESS):
            self._fail(descriptor, reason(code), now)
            return
        self._connecting.add(descriptor)
        self._epoll.register(descriptor, select.EPOLLOUT)

    def handle_event(self, descriptor: int, now: float) -> None:
        """Handle an event of the epoll set."""
        connection = self._connections.get(descriptor)
        if connection is None:  # closed by an event before this one
            return
        sock = self._sockets[descriptor]
        if descriptor in self._connecting:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._fail(descriptor, reason(code), now)
                return
            self._connecting.remove(descriptor)
            self._epoll.modify(descriptor, select.EPOLLIN)
            self._send(
                descriptor,
                connection.message(now) if isinstance(connection, HeldConnection) else connection.message(),
                now,
            )
            return
        try:
            data = sock.recv(4096)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(descriptor, reason(error.errno), now)
            return
        if isinstance(connection, HeldConnection):
            connection.received(data, now)
            ended = not connection.live
        else:
            connection.received(data)
            ended = bool(connection.outcome)
        if ended:
            self._end(descriptor)

    def _send(self, descriptor: int, data: bytes, now: float) -> None:
        """Send data after what is unsent. The rest waits for the connection's next message."""
        data = self._unsent.pop(descriptor, b"") + data
        try:
            rest = data[self._sockets[descriptor].send(data) :]
        except BlockingIOError:
            rest = data
        except OSError as error:
            self._fail(descriptor, reason(error.errno), now)
            return
        if rest:
            self._unsent[descriptor] = rest

    def _fail(self, descriptor: int, failure: str, now: float) -> None:
        connection = self._connections[descriptor]
        if isinstance(connection, HeldConnection):
            connection.fail(failure, now)
        else:
            connection.fail(failure)
        self._end(descriptor)

    def _end(self, descriptor: int) -> None:
        """Close the socket of a connection that has ended: FIN if it ended well, RST otherwise."""
        connection = self._connections.pop(descriptor)
        sock = self._sockets.pop(descriptor)
        self._connecting.discard(descriptor)
        self._unsent.pop(descriptor, None)
        if isinstance(connection, HeldConnection):
            for group in self._groups:
                group.pop(descriptor, None)
            well = connection.state is ConnectionState.CLOSED
            if connection.state is ConnectionState.FAILED:  # a new connection that failed; another one replaces it
                self.held.remove(connection)
                self.attempts.append(ConnectionAttempt(connection.started_at, connection.reason))
                self.to_open += 1
        else:
            well = connection.outcome == "ok"
        if not well:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        sock.close()  # this removes it from the epoll set
