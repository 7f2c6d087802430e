# SPDX-License-Identifier: Apache-2.0
"""The streams to and from all peers: what is sent now, and what is acknowledged. Pure; stream.py has the rules of one.

Streams are what waits: a step returns at most `STEP` items of all of them, in turn, after the states and the claims, so
that neither these nor the loop that sends them wait for a long stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.channel.message import Kind
from agent.channel.peer import Peer
from agent.channel.stream import window_of_each

STEP = 32
"""Items in one step: 1 ms."""
RECENT_S = 0.5
"""For so long after its last item a stream counts among those that arrive at the same time."""

Sending = tuple[Peer, Kind, int, bytes]
"""A datagram to send: its receiver, its kind, its sequence and its payload."""


class Streams:
    """The streams of one node."""

    def __init__(self) -> None:
        self._sending: dict[int, Peer] = {}
        """The peers for which something is in flight or waits, in the order of their turns."""
        self._receiving: dict[int, Peer] = {}
        """Those that have sent something lately."""

    def append(self, peer: Peer, items: Iterable[bytes]) -> None:
        """Send these items to a peer, after all others."""
        peer.outgoing.append(items)
        self._sending.setdefault(peer.number, peer)

    def remove(self, peer: Peer) -> None:
        """Send a peer nothing more."""
        self._sending.pop(peer.number, None)
        self._receiving.pop(peer.number, None)

    def receive(self, peer: Peer, sequence: int, payload: bytes, now: float) -> list[bytes]:
        """Take an item of a peer; return those that are next in order now."""
        self._receiving[peer.number] = peer
        return peer.incoming.add(sequence, payload, now)

    @property
    def next_at(self) -> float:
        """When `step` is due; 0 for at once, infinity for never."""
        if any(peer.incoming.unacknowledged for peer in self._receiving.values()):
            return 0.0
        return min((peer.outgoing.next_at for peer in self._live()), default=float("inf"))

    def step(self, now: float) -> list[Sending]:
        """Return what is to be sent now."""
        self._receiving = {
            number: peer
            for number, peer in self._receiving.items()
            if peer.incoming.unacknowledged or now - peer.incoming.received_at < RECENT_S
        }
        window = window_of_each(len(self._receiving))
        sent: list[Sending] = [
            (peer, Kind.STREAM_ACK, 0, peer.incoming.acknowledgment(window))
            for peer in self._receiving.values()
            if peer.incoming.unacknowledged
        ]
        live = list(self._live())
        share, room = max(1, STEP // max(1, len(live))), STEP
        for peer in live[:STEP]:
            taken = peer.outgoing.take(now, min(share, room))
            sent += [(peer, Kind.STREAM, sequence, payload) for sequence, payload in taken]
            room -= len(taken)
            del self._sending[peer.number]
            if not peer.outgoing.idle:
                self._sending[peer.number] = peer
        return sent

    def _live(self) -> Iterator[Peer]:
        """Those that acknowledge what they are sent: the others get their items in the next session."""
        return (peer for peer in self._sending.values() if not peer.silent)
