# SPDX-License-Identifier: Apache-2.0
"""What counts as broken: the client's judgement of each connection. Pure: no sockets, no clock.

Two kinds of connection, each a small state machine that is told what happened and when (`now`, seconds of
CLOCK_MONOTONIC, which all network namespaces of a machine share):

`Held` stays open and sends the next number every 100 ms:

    OPENING ──first answer──► OPEN ──close()──────────────────────────────► CLOSED
       │                       └──RST · EOF · wrong answer · 15 s silence──► BROKEN
       └──anything but an answer──► FAILED   (it never was open: a failed new connection, not a broken one)

`Attempt` is a new connection: connect, one message, one answer, close. It has 5 s for all of it, so that a SYN lost at
first gets the two more tries that TCP makes by then (after 1 s and 3 s, RFC 6298 (2.1) and (5.5)). A person would not
wait longer either.

The server names itself in each answer (topology/traffic/server.py). An answer is wrong if it comes from another server than
the first one did or does not carry the next number.
"""

import enum
from collections import deque
from dataclasses import dataclass, field

#: How often a held connection sends.
INTERVAL_S = 0.1
#: A held connection without an answer for this long is broken.
SILENCE_S = 15.0
#: What a new connection has for connect, one message and its answer.
ATTEMPT_S = 5.0


class State(enum.Enum):
    """Where a held connection is in its life."""

    OPENING = "opening"
    OPEN = "open"
    CLOSED = "closed"
    BROKEN = "broken"
    FAILED = "failed"


def parse_answer(line: bytes) -> tuple[str, int] | None:
    """Split an answer (without its newline) into the server's name and the number; None if it is no answer at all."""
    name, _, number = line.partition(b" ")
    if not name or not number.isdigit():
        return None
    return name.decode(errors="replace"), int(number)


@dataclass(slots=True)
class Held:
    """A connection that stays open. Times are seconds of CLOCK_MONOTONIC."""

    started_at: float
    #: Its own end, `address:port`.
    source: str = ""
    state: State = State.OPENING
    owner: str = ""
    reason: str = ""
    ended_at: float = 0.0
    longest_silence_s: float = 0.0
    #: When the newest answered message was sent: the connection worked at some time after that.
    proven_at: float = 0.0
    _sent: int = 0
    _heard_at: float = 0.0
    _unanswered: deque[float] = field(default_factory=deque)
    _partial: bytes = b""

    @property
    def live(self) -> bool:
        """True while it has a socket."""
        return self.state in (State.OPENING, State.OPEN)

    def message(self, now: float) -> bytes:
        """Return the next line to send, and remember that it was sent."""
        line = b"%d\n" % self._sent
        self._sent += 1
        self._unanswered.append(now)
        return line

    def received(self, data: bytes, now: float) -> None:
        """Judge what came. No data is the end of the stream."""
        if not data:
            self.lost("eof", now)
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            if self.live:
                self._answer(line, now)

    def lost(self, reason: str, now: float) -> None:
        """The connection ended against our will: `reset`, `eof`, `refused`, ..."""
        if self.live:
            self._note_silence(now)
            self.state = State.FAILED if self.state is State.OPENING else State.BROKEN
            self.reason, self.ended_at = reason, now

    def close(self, now: float) -> None:
        """We close it. One that is still opening counts for nothing."""
        if self.live:
            self._note_silence(now)
            self.state, self.ended_at = State.CLOSED, now

    def check(self, now: float) -> None:
        """Notice silence, and an opening that takes longer than a new connection may."""
        if self.state is State.OPEN and now - self._heard_at >= SILENCE_S:
            self.lost("silence", now)
        elif self.state is State.OPENING and now - self.started_at >= ATTEMPT_S:
            self.lost("timeout", now)

    def settled(self, since: float) -> bool:
        """True if it answered a message that was sent after `since`, or is over."""
        return not self.live or self.proven_at >= since

    def silence_s(self, now: float) -> float:
        """Return the longest time without an answer, the present one included; 100 ms when all is well."""
        present = now - self._heard_at if self.state is State.OPEN else 0.0
        return max(self.longest_silence_s, present)

    def _answer(self, line: bytes, now: float) -> None:
        answer = parse_answer(line)
        expected = self._sent - len(self._unanswered)
        if answer is None or not self._unanswered or answer[1] != expected or self.owner not in ("", answer[0]):
            self.lost("wrong answer", now)
            return
        if self.state is State.OPENING:
            self.state, self.owner = State.OPEN, answer[0]
        else:
            self._note_silence(now)
        self._heard_at = now
        self.proven_at = self._unanswered.popleft()

    def _note_silence(self, now: float) -> None:
        self.longest_silence_s = self.silence_s(now)


@dataclass(slots=True)
class Attempt:
    """A new connection: one message, one answer. It is over when `outcome` is set: `ok` or what went wrong."""

    started_at: float
    outcome: str = ""
    owner: str = ""
    _partial: bytes = b""

    def message(self) -> bytes:
        """Return the one line to send once connected."""
        return b"0\n"

    def received(self, data: bytes) -> None:
        """Judge what came. No data is the end of the stream."""
        self._partial += data
        line, newline, rest = self._partial.partition(b"\n")
        answer = parse_answer(line)
        if not data:
            self.lost("eof")
        elif newline and not self.outcome:
            right = answer is not None and answer[1] == 0 and not rest
            self.outcome, self.owner = ("ok" if right else "wrong answer"), (answer[0] if answer else "")

    def lost(self, reason: str) -> None:
        """The connection ended before its answer: `reset`, `refused`, `eof`, ..."""
        self.outcome = self.outcome or reason

    def check(self, now: float) -> None:
        """Notice that its time is over."""
        if now - self.started_at >= ATTEMPT_S:
            self.lost("timeout")
