# SPDX-License-Identifier: Apache-2.0
"""A BFD session in asynchronous mode (RFC 5880): whether the path to a neighbor works, in both directions.

Pure: takes packets with the time (`now`, seconds of a monotonic clock), returns packets and changes of state;
process.py has the sockets and the clock. Section numbers below are RFC 5880's.

    session = BfdSession(discriminator, SessionTimers(300_000, 3), now, random.random)
    session.receive(packet, now) or session.handle_timer(now), the latter at session.next_timer()
    then take session.outgoing() and session.changes()

The rules, and where ours are narrower:
 1. The state machine is the table of 6.2 and 6.8.6, below. Both ends have the active role.
 2. The transmit interval is the larger of our Desired Min TX and the neighbor's Required Min RX, minus a jitter of up
    to a quarter (6.8.7). A change of state, and the Final that answers a Poll, are sent at once.
 3. While not Up we desire an interval of at least a second (6.8.3). New intervals are sent with the Poll bit until a
    Final acknowledges them; until then we send no slower and wait no shorter than before.
 4. A neighbor that is silent for the detection time is down, and what it sent is discarded (6.8.4, 6.8.1).
 5. A neighbor in AdminDown takes the session down. That is not a failure: it shows nothing about the path (RFC 5882
    section 3.2).
 6. While Up, a packet without our discriminator is ignored. It may mean that the neighbor has started again, but all it
    proves is its source address, which anybody may forge; if it is true, the detection time ends the session.
 7. We honor a neighbor's Demand mode and never request it; no echo, no authentication, no multipoint.

Standard library only: the BFD archive carries this file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from bgp.bfd.packet import Diagnostic, Packet, SessionState

SLOW_US = 1_000_000
"""The lower limit of our Desired Min TX Interval while a session is not Up (6.8.3)."""
_JITTER = 0.25

_NEXT = {
    # (our state, the received state): our next state. Any other pair changes nothing.
    (SessionState.DOWN, SessionState.DOWN): SessionState.INIT,
    (SessionState.DOWN, SessionState.INIT): SessionState.UP,
    (SessionState.INIT, SessionState.ADMIN_DOWN): SessionState.DOWN,
    (SessionState.INIT, SessionState.INIT): SessionState.UP,
    (SessionState.INIT, SessionState.UP): SessionState.UP,
    (SessionState.UP, SessionState.ADMIN_DOWN): SessionState.DOWN,
    (SessionState.UP, SessionState.DOWN): SessionState.DOWN,
}


@dataclass(frozen=True, slots=True)
class SessionTimers:
    """The interval in which we want to send and receive, and our Detect Mult (2 to 255)."""

    interval_us: int
    multiplier: int


@dataclass(frozen=True, slots=True)
class StateChange:
    """A change of state. `failure`: the path failed; false if an end took the session down administratively."""

    old: SessionState
    new: SessionState
    diagnostic: Diagnostic
    failure: bool


class _Intervals(NamedTuple):
    """Desired Min TX and Required Min RX of our packets."""

    desired_us: int
    required_us: int


class BfdSession:
    """The session with one neighbor.

    `random` returns numbers in [0, 1). The discriminator is not 0 and is unique among the sessions of this process.
    """

    def __init__(self, discriminator: int, timers: SessionTimers, now: float, random: Callable[[], float]) -> None:
        self.discriminator = discriminator
        self.state = SessionState.DOWN
        self.diagnostic = Diagnostic.NONE
        """Why the session last went down."""
        self._timers = timers
        self._random = random
        self._advertised = self._acknowledged = self._wanted_intervals()
        self._outgoing: list[Packet] = []
        self._changes: list[StateChange] = []
        self._remote: Packet | None = None
        """The neighbor's last packet; None before the first one, and after the detection time."""
        self._received_at = now
        self._sent_at = now
        self._jitter = 0.0
        self._transmit_at: float | None = now

    def receive(self, packet: Packet, now: float) -> None:
        """Process a packet of this neighbor (6.8.6); ignore one with another session's discriminator."""
        known = (self.discriminator,) if self.state is SessionState.UP else (0, self.discriminator)
        if packet.your_discriminator not in known or self.state is SessionState.ADMIN_DOWN:
            return
        self._remote = packet
        self._received_at = now
        if packet.final:
            self._acknowledged = self._advertised
        new = _NEXT.get((self.state, packet.state), self.state)
        if new is SessionState.DOWN and self.state is not SessionState.DOWN:
            failure = self.state is SessionState.UP and packet.state is not SessionState.ADMIN_DOWN
            self._change_state(SessionState.DOWN, Diagnostic.NEIGHBOR_DOWN, failure, now)
        elif new is not self.state:
            self._change_state(new, Diagnostic.NONE if new is SessionState.UP else self.diagnostic, False, now)
        self._negotiate()
        if packet.poll:
            self._outgoing.append(self._packet(final=True))
        self._schedule()

    def next_timer(self) -> float:
        """Return when `handle_timer` is due; infinity if never."""
        due = [at for at in (self._transmit_at, self._expires_at) if at is not None]
        return min(due, default=float("inf"))

    def handle_timer(self, now: float) -> None:
        """Act on the time: detect a silent neighbor, send a due packet."""
        if self._expires_at is not None and now >= self._expires_at:
            before = self.state
            self._remote = None
            if before in (SessionState.INIT, SessionState.UP):
                self._change_state(SessionState.DOWN, Diagnostic.TIME_EXPIRED, before is SessionState.UP, now)
            self._negotiate()
            self._schedule()
        if self._transmit_at is not None and now >= self._transmit_at:
            self._send(now)

    def outgoing(self) -> list[Packet]:
        """Return the packets to send, each once."""
        packets, self._outgoing = self._outgoing, []
        return packets

    def changes(self) -> list[StateChange]:
        """Return the changes of state since the last call."""
        changes, self._changes = self._changes, []
        return changes

    def set_timers(self, timers: SessionTimers, now: float) -> None:
        """Change interval and multiplier; the session stays up."""
        self._timers = timers
        self._negotiate()
        self._send(now)

    def shut(self, now: float) -> None:
        """Take the session to AdminDown for good, so that the neighbor sees no failure (6.8.16)."""
        if self.state is not SessionState.ADMIN_DOWN:
            self._change_state(SessionState.ADMIN_DOWN, Diagnostic.ADMIN_DOWN, False, now)

    @property
    def transmit_us(self) -> int:
        """Our transmit interval before jitter (6.8.2)."""
        desired = min(self._advertised.desired_us, self._acknowledged.desired_us)
        return max(desired, self._remote.required_min_rx_us if self._remote else 0)

    @property
    def detection_us(self) -> int:
        """The detection time (6.8.4); 0 while there is no neighbor."""
        if self._remote is None:
            return 0
        required = max(self._advertised.required_us, self._acknowledged.required_us)
        return self._remote.multiplier * max(required, self._remote.desired_min_tx_us)

    @property
    def _polling(self) -> bool:
        return self._advertised != self._acknowledged

    @property
    def _expires_at(self) -> float | None:
        return None if self._remote is None else self._received_at + self.detection_us / 1e6

    def _wanted_intervals(self) -> _Intervals:
        interval = self._timers.interval_us
        return _Intervals(interval if self.state is SessionState.UP else max(interval, SLOW_US), interval)

    def _negotiate(self) -> None:
        """Advertise the intervals that we want now; while Up, start no Poll Sequence before the last one ends."""
        if self.state is not SessionState.UP:
            self._advertised = self._acknowledged = self._wanted_intervals()
        elif not self._polling:
            self._advertised = self._wanted_intervals()

    def _change_state(self, new: SessionState, diagnostic: Diagnostic, failure: bool, now: float) -> None:
        self._changes.append(StateChange(self.state, new, diagnostic, failure))
        self.state, self.diagnostic = new, diagnostic
        self._negotiate()
        self._send(now)

    def _send(self, now: float) -> None:
        self._outgoing.append(self._packet())
        self._sent_at = now
        self._jitter = 1 - _JITTER * self._random()
        self._schedule()

    def _schedule(self) -> None:
        """Schedule the next packet from the last one, so that a shorter interval takes effect at once (6.8.3)."""
        remote = self._remote
        silent = remote is not None and (
            remote.required_min_rx_us == 0
            or (
                remote.demand
                and remote.state is SessionState.UP
                and self.state is SessionState.UP
                and not self._polling
            )
        )
        self._transmit_at = None if silent else self._sent_at + self.transmit_us / 1e6 * self._jitter

    def _packet(self, final: bool = False) -> Packet:
        return Packet(
            state=self.state,
            multiplier=self._timers.multiplier,
            my_discriminator=self.discriminator,
            your_discriminator=self._remote.my_discriminator if self._remote else 0,
            desired_min_tx_us=self._advertised.desired_us,
            required_min_rx_us=self._advertised.required_us,
            diagnostic=self.diagnostic,
            poll=self._polling and not final,
            final=final,
        )
