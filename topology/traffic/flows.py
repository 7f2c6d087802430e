# SPDX-License-Identifier: Apache-2.0
"""The client's sockets: connects, sends, receives and closes for tally.py's connections, which judge them.

Owns sockets and the epoll set they are in; not the clock (`now`, seconds of CLOCK_MONOTONIC, comes from the loop in
traffic/__main__.py) and not the judgement.
"""

import errno
import select
import socket
import sys
from collections import deque
from collections.abc import Iterator

from topology.traffic.tally import INTERVAL_S, Attempt, Held, State

#: The loop's step. Held connections are spread over the steps of one interval, so that they do not send in bursts.
TICK_S = 0.01
GROUPS = round(INTERVAL_S / TICK_S)
#: How many held connections one step opens at most: 400 in a fifth of a second.
OPEN_PER_TICK = 20
#: Source ports walk from here up. They never come round within a TIME-WAIT (60 s): 256 addresses times 40,000 ports.
FIRST_PORT = 15000
REASON = {errno.ECONNRESET: "reset", errno.EPIPE: "reset", errno.ECONNREFUSED: "refused", errno.ETIMEDOUT: "timeout"}
#: SO_LINGER on, 0 s: close() sends RST instead of FIN and leaves nothing behind that goes on sending.
ABORT = (1).to_bytes(4, sys.byteorder) + (0).to_bytes(4, sys.byteorder)


def reason(code: int | None) -> str:
    """Name what a socket's error means for the tally."""
    return REASON.get(code or 0) or errno.errorcode.get(code or 0, "error")


def sources(prefix: str, offset: int = 0) -> Iterator[tuple[str, int]]:
    """Yield source (address, port) pairs, none twice: every address of `prefix` (three octets) before the next port.

    `offset` moves the first port, so that a second client in the same namespace does not meet the first one's
    TIME-WAIT sockets.
    """
    for port in range(FIRST_PORT + offset, 65536):
        for last in range(256):
            yield f"{prefix}.{last}", port


class Flows:
    """All connections of a client, held and new, over one epoll set."""

    def __init__(self, target: tuple[str, int], source: Iterator[tuple[str, int]], epoll: select.epoll) -> None:
        self.held: list[Held] = []
        self.attempts: list[Attempt] = []
        #: How many held connections are still to be opened.
        self.to_open = 0
        #: Rate of new connections.
        self.fresh_per_s = 0.0
        self._target = target
        self._source = source
        self._epoll = epoll
        self._sockets: dict[int, socket.socket] = {}
        self._flows: dict[int, Held | Attempt] = {}
        self._connecting: set[int] = set()
        self._groups: list[dict[int, Held]] = [{} for _ in range(GROUPS)]
        self._pending: deque[tuple[int, Attempt]] = deque()  # in the order of their start, so of their deadline
        self._due = 0.0  # fraction of a new connection that is due
        self._tick = 0

    def begin(self) -> None:
        """Forget what is over."""
        self.held = [held for held in self.held if held.live]
        self.attempts = [attempt for attempt in self.attempts if not attempt.outcome]

    def close(self, owner: str | None, now: float) -> int:
        """Close the held connections of a server, or all of them; return how many."""
        mine = [(d, flow) for d, flow in self._flows.items() if isinstance(flow, Held) and owner in (None, flow.owner)]
        for descriptor, held in mine:
            held.close(now)
            self._end(descriptor)
        return len(mine)

    def tick(self, now: float) -> None:
        """Do what a hundredth of a second asks for: send, open, look at the time."""
        group = self._groups[self._tick % GROUPS]
        for descriptor, held in list(group.items()):
            held.check(now)
            if held.state is State.OPEN:
                self._send(descriptor, held.message(now), now)
            elif not held.live:
                self._end(descriptor)
        for _ in range(min(self.to_open, OPEN_PER_TICK)):
            self.to_open -= 1
            self._start(Held(now), now)
        self._due += self.fresh_per_s * TICK_S
        while self._due >= 1:
            self._due -= 1
            self._start(Attempt(now), now)
        while self._pending and (self._pending[0][1].outcome or self._overdue(*self._pending[0], now)):
            self._pending.popleft()
        self._tick += 1

    def _overdue(self, descriptor: int, attempt: Attempt, now: float) -> bool:
        attempt.check(now)
        if attempt.outcome:
            self._end(descriptor)
        return bool(attempt.outcome)

    def _start(self, flow: Held | Attempt, now: float) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        descriptor = sock.fileno()
        self._sockets[descriptor] = sock
        self._flows[descriptor] = flow
        if isinstance(flow, Held):
            self.held.append(flow)
            self._groups[len(self.held) % GROUPS][descriptor] = flow
        else:
            self.attempts.append(flow)
            self._pending.append((descriptor, flow))
        address, port = next(self._source)
        if isinstance(flow, Held):
            flow.source = f"{address}:{port}"
        try:
            sock.bind((address, port))
            code = sock.connect_ex(self._target)
        except OSError as error:
            code = error.errno or errno.EIO
        if code not in (0, errno.EINPROGRESS):
            self._lost(descriptor, reason(code), now)
            return
        self._connecting.add(descriptor)
        self._epoll.register(descriptor, select.EPOLLOUT)

    def ready(self, descriptor: int, now: float) -> None:
        """Handle an event of the epoll set."""
        flow = self._flows.get(descriptor)
        if flow is None:  # closed by an event before this one
            return
        sock = self._sockets[descriptor]
        if descriptor in self._connecting:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._lost(descriptor, reason(code), now)
                return
            self._connecting.remove(descriptor)
            self._epoll.modify(descriptor, select.EPOLLIN)
            self._send(descriptor, flow.message(now) if isinstance(flow, Held) else flow.message(), now)
            return
        try:
            data = sock.recv(4096)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(descriptor, reason(error.errno), now)
            return
        if isinstance(flow, Held):
            flow.received(data, now)
            over = not flow.live
        else:
            flow.received(data)
            over = bool(flow.outcome)
        if over:
            self._end(descriptor)

    def _send(self, descriptor: int, data: bytes, now: float) -> None:
        try:
            self._sockets[descriptor].send(data)
        except OSError as error:
            self._lost(descriptor, reason(error.errno), now)

    def _lost(self, descriptor: int, why: str, now: float) -> None:
        flow = self._flows[descriptor]
        if isinstance(flow, Held):
            flow.lost(why, now)
        else:
            flow.lost(why)
        self._end(descriptor)

    def _end(self, descriptor: int) -> None:
        """Close the socket of a flow that is over: FIN if it ended well, RST otherwise."""
        flow = self._flows.pop(descriptor)
        sock = self._sockets.pop(descriptor)
        self._connecting.discard(descriptor)
        if isinstance(flow, Held):
            for group in self._groups:
                group.pop(descriptor, None)
            well = flow.state is State.CLOSED
            if flow.state is State.FAILED:  # it was a new connection that failed; another one takes its place
                self.held.remove(flow)
                self.attempts.append(Attempt(flow.started_at, flow.reason))
                self.to_open += 1
        else:
            well = flow.outcome == "ok"
        if not well:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        sock.close()  # closing takes it out of the epoll set
