# SPDX-License-Identifier: Apache-2.0
"""When a connection counts as broken: the client's judgment of each. Pure: no sockets, no clock.

Two kinds of connection. Each is a small state machine over events and their time (`now`, seconds of CLOCK_MONOTONIC,
which all network namespaces of a machine share).

`HeldConnection` stays open and sends the next number every 100 ms:

    OPENING ──first answer──► OPEN ──close()──────────────────────────────► CLOSED
       │                       └──RST · EOF · wrong answer · 15 s silence──► BROKEN
       └──anything but an answer──► FAILED   (it was never open: a failed new connection, not a broken one)

`ConnectionAttempt` is a new connection: connect, one message, one answer, close. It has 5 s for all of it, so that a
lost first SYN gets the two retransmissions that TCP makes by then (after 1 s and 3 s, RFC 6298 (2.1) and (5.5)). A
person would not wait longer either.

The server names itself in each answer (topology/traffic/server.py). An answer is wrong if it comes from another server
than the first one did or does not carry the next number.
"""

import enum
from collections import deque
from dataclasses import dataclass, field

#: How often a held connection sends.
INTERVAL_S = 0.1
#: A held connection without an answer for this long is broken.
SILENCE_S = 15.0
#: The time of a new connection for connect, one message and its answer.
ATTEMPT_S = 5.0


class ConnectionState(enum.Enum):
    """The state of a held connection."""

    OPENING = "opening"
    OPEN = "open"
    CLOSED = "closed"
    BROKEN = "broken"
    FAILED = "failed"


def parse_answer(line: bytes) -> tuple[str, int] | None:
    """Split an answer (without its newline) into the server's name and the number; None if it is no answer."""
    name, _, number = line.partition(b" ")
    if not name or not number.isdigit():
        return None
    return name.decode(errors="replace"), int(number)


@dataclass(slots=True)
class HeldConnection:
    """A connection that stays open. Times are seconds of CLOCK_MONOTONIC."""

    started_at: float
    #: Its local end, `address:port`.
    source: str = ""
    state: ConnectionState = ConnectionState.OPENING
    owner: str = ""
    reason: str = ""
    ended_at: float = 0.0
    longest_silence_s: float = 0.0
    #: When the newest answered message was sent: the connection worked at some time after that.
    proven_at: float = 0.0
    _sent: int = 0
    _answered_at: float = 0.0
    _unanswered: deque[float] = field(default_factory=deque)
    _partial: bytes = b""

    @property
    def live(self) -> bool:
        """True while it has a socket."""
        return self.state in (ConnectionState.OPENING, ConnectionState.OPEN)

    def message(self, now: float) -> bytes:
        """Return the next line to send, and record that it was sent."""
        line = b"%d\n" % self._sent
        self._sent += 1
        self._unanswered.append(now)
        return line

    def received(self, data: bytes, now: float) -> None:
        """Judge received data; no data is the end of the stream."""
        if not data:
            self.fail("eof", now)
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            if self.live:
                self._answer(line, now)

    def fail(self, reason: str, now: float) -> None:
        """Record an end that the client did not want: `reset`, `eof`, `refused`, ..."""
        if self.live:
            self._record_silence(now)
            self.state = ConnectionState.FAILED if self.state is ConnectionState.OPENING else ConnectionState.BROKEN
            self.reason, self.ended_at = reason, now

    def close(self, now: float) -> None:
        """Record that the client closes it. One that is still opening is not counted."""
        if self.live:
            self._record_silence(now)
            self.state, self.ended_at = ConnectionState.CLOSED, now

    def check(self, now: float, silence_s: float = SILENCE_S, attempt_s: float = ATTEMPT_S) -> None:
        """Detect silence, and an opening that takes longer than a new connection may."""
        if self.state is ConnectionState.OPEN and now - self._answered_at >= silence_s:
            self.fail("silence", now)
        elif self.state is ConnectionState.OPENING and now - self.started_at >= attempt_s:
            self.fail("timeout", now)

    def settled(self, since: float) -> bool:
        """Return whether it answered a message that was sent after `since`, or has ended."""
        return not self.live or self.proven_at >= since

    def silence_s(self, now: float) -> float:
        """Return the longest time without an answer, the current one included; 100 ms without faults."""
        current = now - self._answered_at if self.state is ConnectionState.OPEN else 0.0
        return max(self.longest_silence_s, current)

    def _answer(self, line: bytes, now: float) -> None:
        answer = parse_answer(line)
        expected = self._sent - len(self._unanswered)
        if answer is None or not self._unanswered or answer[1] != expected or self.owner not in ("", answer[0]):
            self.fail("wrong answer", now)
            return
        if self.state is ConnectionState.OPENING:
            self.state, self.owner = ConnectionState.OPEN, answer[0]
        else:
            self._record_silence(now)
        self._answered_at = now
        self.proven_at = self._unanswered.popleft()

    def _record_silence(self, now: float) -> None:
        self.longest_silence_s = self.silence_s(now)


@dataclass(slots=True)
class ConnectionAttempt:
    """A new connection: one message, one answer. It has ended once `outcome` is set: `ok` or a reason of failure."""

    started_at: float
    outcome: str = ""
    owner: str = ""
    _partial: bytes = b""

    def message(self) -> bytes:
        """Return the one line to send once connected."""
        return b"0\n"

    def received(self, data: bytes) -> None:
        """Judge received data; no data is the end of the stream."""
        self._partial += data
        line, newline, rest = self._partial.partition(b"\n")
        answer = parse_answer(line)
        if not data:
            self.fail("eof")
        elif newline and not self.outcome:
            correct = answer is not None and answer[1] == 0 and not rest
            self.outcome, self.owner = ("ok" if correct else "wrong answer"), (answer[0] if answer else "")

    def fail(self, reason: str) -> None:
        """Record an end before its answer: `reset`, `refused`, `eof`, ..."""
        self.outcome = self.outcome or reason

    def check(self, now: float, attempt_s: float = ATTEMPT_S) -> None:
        """Detect that its time is over."""
        if now - self.started_at >= attempt_s:
            self.fail("timeout")
