# SPDX-License-Identifier: Apache-2.0
"""What is sent to which peer when: HELLOs to silent peers, this node's state and claims to the others. Pure.

1. A state goes to all peers at once, and to each peer whose session begins. Each part is repeated until it is
   acknowledged, first after `REPEAT_S`, then after twice as long each time, at most `MAX_REPEAT_S`. A newer state
   replaces an older one that is not acknowledged yet. The log of claims goes after it, to peers that read claims.
2. After `MAX_ATTEMPTS` a peer is silent. A silent peer gets a HELLO after `HELLO_S`, then after twice as long each
   time, at most `MAX_HELLO_S`. What changes meanwhile it gets when it acknowledges something, or in the next session.
3. All intervals vary by a quarter, so that nodes that started at once do not stay in step.
4. At most `WINDOW` datagrams are in flight. What is sent for the first time goes before what is repeated, so that dead
   peers delay no live one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from random import Random

from agent.channel.message import Kind
from agent.channel.pacing import Timers, Window
from agent.channel.peer import Peer

REPEAT_S = 0.05
MAX_REPEAT_S = 1.0
MAX_ATTEMPTS = 10
"""Six and a half seconds."""
HELLO_S = 1.0
MAX_HELLO_S = 30.0
WINDOW = 64
IN_FLIGHT_S = 0.1
"""Longer than the first interval between repeats, and than a round trip between two busy agents."""
_JITTER = 0.25

Transmission = tuple[Peer, Kind, int, int]
"""A datagram to send: its receiver, its kind, and for a STATE or CLAIMS its sequence and part."""


class Transmitter:
    """The state and the claims of this node, and their paths to the peers. `rng` gives jitter and order."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._sequence = 0
        """The last one: no two states or logs have the same."""
        self._published: dict[Kind, tuple[int, int]] = {}
        """The sequence and the number of parts of the state and of the log of claims."""
        self._window = Window(WINDOW, IN_FLIGHT_S)
        self._timers: Timers[Peer] = Timers()
        self._first: deque[Peer] = deque()
        self._repeated: deque[Peer] = deque()

    @property
    def next_at(self) -> float:
        """When `step` is due; 0 for at once, infinity for never."""
        if not self._first and not self._repeated:
            return self._timers.next_at
        return 0.0 if self._window.is_open else min(self._window.opens_at, self._timers.next_at)

    def add(self, peers: Iterable[Peer]) -> None:
        """Send HELLOs to new peers."""
        for peer in self._shuffled(peers):
            self._enqueue(peer, self._first)

    def remove(self, peer: Peer) -> None:
        """Send a peer nothing more."""
        peer.queue = None
        self._timers.cancel(peer)

    def publish(self, kind: Kind, parts: int, peers: Iterable[Peer]) -> None:
        """Send a new state or log of so many parts to all peers; to silent ones when they acknowledge something."""
        self._sequence += 1
        self._published[kind] = self._sequence, parts
        for peer in self._shuffled(peers):
            self.push(peer, kind)

    def push(self, peer: Peer, kind: Kind) -> None:
        """Send the whole state or log to a peer that may not have it."""
        if kind is Kind.CLAIMS and not peer.reads_claims:
            return
        others = {slot for slot in peer.missing if slot[0] is not kind}
        peer.missing = others.union((kind, part) for part in range(self._published.get(kind, (0, 0))[1]))
        if not peer.silent:
            peer.attempt = 0
            self._enqueue(peer, self._first)

    def extend(self, kind: Kind, parts: int, peers: Iterable[Peer]) -> None:
        """Send the new parts of a log that has so many now to all that read it, as `publish` does."""
        sequence, before = self._published[kind]
        self._published[kind] = sequence, parts
        for peer in self._shuffled(peers):
            if not peer.reads_claims:
                continue
            if not peer.missing:
                peer.attempt = 0
            peer.missing.update((kind, part) for part in range(before, parts))
            if not peer.silent:
                self._enqueue(peer, self._first)

    def acknowledge(self, peer: Peer, sequence: int, part: int) -> None:
        """Send this part no more. A silent peer is not dead, and gets the rest."""
        self._window.release((peer.number, sequence, part))
        kind = next((one for one, (current, _) in self._published.items() if current == sequence), None)
        if kind is None or (kind, part) not in peer.missing:
            return
        peer.missing.remove((kind, part))
        if peer.silent:
            peer.silent = False
            peer.attempt = 0
            self._enqueue(peer, self._first)
        if not peer.missing:
            self.remove(peer)

    def answered(self, peer: Peer) -> None:
        """Note that a peer's HELLO needs no answer any more."""
        self._window.release((peer.number, 0, 0))

    def wake(self, peer: Peer, now: float) -> None:
        """Send a silent peer a HELLO at once, or `HELLO_S` after the last one."""
        if not peer.silent:
            return
        peer.hellos = 0
        if now - peer.hello_at >= HELLO_S:
            self._enqueue(peer, self._first)
        elif peer.queue is None:
            self._timers.set(peer, peer.hello_at + HELLO_S)

    def defer_hello(self, peer: Peer, now: float) -> None:
        """Put off the first HELLO: the peer has sent one, and goes on from our answer.

        Only the first one, since the peer's may be a copy that somebody sends again and again.
        """
        if peer.silent and peer.hellos == 0 and peer.queue is not None:
            self.remove(peer)
            self._schedule_hello(peer, now)

    def step(self, now: float) -> list[Transmission]:
        """Return what is to be sent now."""
        self._window.expire(now)
        for peer in self._timers.pop_due(now):
            self._time_out(peer)
        sent: list[Transmission] = []
        while self._window.is_open:
            waiting = self._first or self._repeated
            if not waiting:
                break
            peer = waiting.popleft()
            if peer.queue is waiting:
                peer.queue = None
                self._send(peer, waiting, now, sent)
        return sent

    def _time_out(self, peer: Peer) -> None:
        if not peer.silent:
            peer.attempt += 1
            peer.silent = peer.attempt >= MAX_ATTEMPTS
            peer.hellos = 0
        self._enqueue(peer, self._repeated)

    def _enqueue(self, peer: Peer, queue: deque[Peer]) -> None:
        peer.unsent = sorted(peer.missing, reverse=True)
        self._timers.cancel(peer)
        if peer.queue is not queue:
            peer.queue = queue
            queue.append(peer)

    def _send(self, peer: Peer, queue: deque[Peer], now: float, sent: list[Transmission]) -> None:
        if peer.silent:
            sent.append((peer, Kind.HELLO, 0, 0))
            self._window.add((peer.number, 0, 0), now)
            peer.hello_at = now
            self._schedule_hello(peer, now)
            return
        while peer.unsent and self._window.is_open:
            kind, part = peer.unsent.pop()
            if (kind, part) in peer.missing:
                sequence = self._published[kind][0]
                sent.append((peer, kind, sequence, part))
                self._window.add((peer.number, sequence, part), now)
        if peer.unsent:
            peer.queue = queue
            # A long log makes room for the states of others.
            (queue.append if peer.unsent[-1][0] is Kind.CLAIMS else queue.appendleft)(peer)
        elif peer.missing:
            self._timers.set(peer, now + self._jittered(min(MAX_REPEAT_S, REPEAT_S * 2**peer.attempt)))

    def _schedule_hello(self, peer: Peer, now: float) -> None:
        self._timers.set(peer, now + self._jittered(min(MAX_HELLO_S, HELLO_S * 2 ** min(peer.hellos, 10))))
        peer.hellos += 1

    def _jittered(self, interval_s: float) -> float:
        return interval_s * self._rng.uniform(1 - _JITTER, 1 + _JITTER)

    def _shuffled(self, peers: Iterable[Peer]) -> Collection[Peer]:
        """In another order on each node: nodes that start at once do not all begin with the same peer."""
        order = list(peers)
        self._rng.shuffle(order)
        return order
