# SPDX-License-Identifier: Apache-2.0
"""A BFD session in asynchronous mode (RFC 5880): is the path to this neighbor alive, in both directions?

Pure: packets come in with the time (`now`, seconds of a clock that only grows), packets and changes of state go out;
process.py has the sockets and the clock. Section numbers below are RFC 5880's.

    session = Session(discriminator, Timers(300_000, 3), now, random.random)
    session.receive(packet, now) or session.handle_timer(now), the latter at session.next_timer()
    then take session.outgoing() and session.changes()

The rules, and where ours are narrower:
 1. The state machine is the table of 6.2 and 6.8.6, below. Both ends are active.
 2. A packet is due after the larger of what we desire and what the neighbor can take, shortened by up to a quarter at
    random (6.8.7); a change of state, and the answer to a Poll, is told at once.
 3. While not Up we desire no less than a second (6.8.3). New intervals are told under the Poll bit until a Final
    answers them; until then we go on sending no slower and waiting no shorter than before.
 4. A neighbor that is silent for its multiplier times the agreed interval is down, and forgotten (6.8.4, 6.8.1).
 5. A neighbor that says AdminDown takes the session down, and that is not a failure: it tells nothing of the path
    (RFC 5882 section 3.2).
 6. We honor a neighbor's Demand mode and never ask for it; no echo, no authentication, no multipoint.

Standard library only: the relay's archive carries this file (helper_archive.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from bgp.bfd.packet import Diagnostic, Packet, SessionState

SLOW_US = 1_000_000
"""The least interval to desire while a session is not Up (6.8.3)."""
_JITTER = 0.25

_NEXT = {
    # (ours, the neighbor's): ours after that. Any other pair changes nothing.
    (SessionState.DOWN, SessionState.DOWN): SessionState.INIT,
    (SessionState.DOWN, SessionState.INIT): SessionState.UP,
    (SessionState.INIT, SessionState.ADMIN_DOWN): SessionState.DOWN,
    (SessionState.INIT, SessionState.INIT): SessionState.UP,
    (SessionState.INIT, SessionState.UP): SessionState.UP,
    (SessionState.UP, SessionState.ADMIN_DOWN): SessionState.DOWN,
    (SessionState.UP, SessionState.DOWN): SessionState.DOWN,
}


@dataclass(frozen=True, slots=True)
class Timers:
    """How often we send and want to hear, and after how many packets missed the neighbor may give us up (2 to 255)."""

    interval_us: int
    multiplier: int


@dataclass(frozen=True, slots=True)
class StateChange:
    """A change of state. `failure`: the path was alive and is not; not so when someone took the session down."""

    old: SessionState
    new: SessionState
    diagnostic: Diagnostic
    failure: bool


class _Offer(NamedTuple):
    """The intervals that our packets carry."""

    desired_us: int
    required_us: int


class BfdSession:
    """One neighbor. `random` gives numbers in [0, 1); the discriminator is not 0 and no other session's here."""

    def __init__(self, discriminator: int, timers: Timers, now: float, random: Callable[[], float]) -> None:
        self.discriminator = discriminator
        self.state = SessionState.DOWN
        self.diagnostic = Diagnostic.NONE
        """Why the session last went down."""
        self._timers = timers
        self._random = random
        self._offer = self._agreed = self._wanted()
        self._outgoing: list[Packet] = []
        self._changes: list[StateChange] = []
        self._remote: Packet | None = None
        """The neighbor's last packet; None before the first, and once it was silent for too long."""
        self._heard_at = now
        self._sent_at = now
        self._jitter = 0.0
        self._transmit_at: float | None = now

    def receive(self, packet: Packet, now: float) -> None:
        """Take a packet of this neighbor (6.8.6). One that names another session's discriminator is not for us."""
        if packet.your_discriminator not in (0, self.discriminator) or self.state is SessionState.ADMIN_DOWN:
            return
        self._remote = packet
        self._heard_at = now
        if packet.final:
            self._agreed = self._offer
        new = _NEXT.get((self.state, packet.state), self.state)
        if new is SessionState.DOWN and self.state is not SessionState.DOWN:
            failure = self.state is SessionState.UP and packet.state is not SessionState.ADMIN_DOWN
            self._become(SessionState.DOWN, Diagnostic.NEIGHBOR_DOWN, failure, now)
        elif new is not self.state:
            self._become(new, Diagnostic.NONE if new is SessionState.UP else self.diagnostic, False, now)
        self._negotiate()
        if packet.poll:
            self._outgoing.append(self._packet(final=True))
        self._schedule()

    def next_timer(self) -> float:
        """When handle_timer is due."""
        due = [at for at in (self._transmit_at, self._expires_at) if at is not None]
        return min(due, default=float("inf"))

    def handle_timer(self, now: float) -> None:
        """Let time pass: give up a silent neighbor, send what is due."""
        if self._expires_at is not None and now >= self._expires_at:
            alive = self.state
            self._remote = None
            if alive in (SessionState.INIT, SessionState.UP):
                self._become(SessionState.DOWN, Diagnostic.TIME_EXPIRED, alive is SessionState.UP, now)
            self._negotiate()
            self._schedule()
        if self._transmit_at is not None and now >= self._transmit_at:
            self._send(now)

    def outgoing(self) -> list[Packet]:
        """Return the packets to send now, once."""
        packets, self._outgoing = self._outgoing, []
        return packets

    def changes(self) -> list[StateChange]:
        """Return the changes of state, once each."""
        changes, self._changes = self._changes, []
        return changes

    def set_timers(self, timers: Timers, now: float) -> None:
        """Change interval and multiplier; the session stays up."""
        self._timers = timers
        self._negotiate()
        self._send(now)

    def shut(self, now: float) -> None:
        """Take the session down on our side for good; the neighbor is told that it is not a failure (6.8.16)."""
        if self.state is not SessionState.ADMIN_DOWN:
            self._become(SessionState.ADMIN_DOWN, Diagnostic.ADMIN_DOWN, False, now)

    @property
    def transmit_us(self) -> int:
        """The interval in which we send, before jitter (6.8.2)."""
        desired = min(self._offer.desired_us, self._agreed.desired_us)
        return max(desired, self._remote.required_min_rx_us if self._remote else 0)

    @property
    def detection_us(self) -> int:
        """How long the neighbor may be silent (6.8.4); 0 while there is none."""
        if self._remote is None:
            return 0
        required = max(self._offer.required_us, self._agreed.required_us)
        return self._remote.multiplier * max(required, self._remote.desired_min_tx_us)

    @property
    def _polling(self) -> bool:
        return self._offer != self._agreed

    @property
    def _expires_at(self) -> float | None:
        return None if self._remote is None else self._heard_at + self.detection_us / 1e6

    def _wanted(self) -> _Offer:
        interval = self._timers.interval_us
        return _Offer(interval if self.state is SessionState.UP else max(interval, SLOW_US), interval)

    def _negotiate(self) -> None:
        """Offer what we want now; while Up, one Poll Sequence after the other."""
        if self.state is not SessionState.UP:
            self._offer = self._agreed = self._wanted()
        elif not self._polling:
            self._offer = self._wanted()

    def _become(self, new: SessionState, diagnostic: Diagnostic, failure: bool, now: float) -> None:
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
        """Plan the next packet from the last one, so that a shorter interval counts at once (6.8.3)."""
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
            desired_min_tx_us=self._offer.desired_us,
            required_min_rx_us=self._offer.required_us,
            diagnostic=self.diagnostic,
            poll=self._polling and not final,
            final=final,
        )
