# SPDX-License-Identifier: Apache-2.0
"""A stream of items from one node to another, in order, repeated until acknowledged. Pure; for what is long and goes to
one peer alone: the sessions of a NAT row that change their owner.

    STREAM      sequence: which item, from 1; payload: the item
    STREAM_ACK  payload: next (32 bits), window (16 bits), bitmap (32 bytes)

1. `next` is the first item that has not arrived. Bit i of the bitmap, the highest bit of its first byte being bit 0,
   says that item `next` + 1 + i has arrived. One acknowledgment is for all that arrived since the last one.
2. At most `window` items are in flight. The receiver chooses it: nodes that send to it at the same time share
   `RECEIVE_WINDOW`, which its socket can hold beside the other datagrams.
3. An item is lost if one that was sent `REORDERED_S` after it has arrived, or if nothing is acknowledged for
   `REPEAT_S`, then twice as long each time, at most `MAX_REPEAT_S`. Lost items go first.
4. A new session begins the stream at 1 again, with what is not acknowledged: the peer may get some items twice.
"""

from __future__ import annotations

import itertools
import struct
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

SPAN: Final = 256
"""How many items after the first missing one a receiver keeps."""
FIRST_WINDOW: Final = 8
MIN_WINDOW: Final = 4
MAX_WINDOW: Final = 64
RECEIVE_WINDOW: Final = 256
"""For all peers together: 1,200 bytes take 2,304 in a socket's buffer of two megabytes."""
REORDERED_S: Final = 0.005
REPEAT_S: Final = 0.05
MAX_REPEAT_S: Final = 1.0
_ACK = struct.Struct(f"!IH{SPAN // 8}s")
_BITS = (2 << SPAN) - 1
"""Of the next item and `SPAN` after it."""
_MAX_SEQUENCE: Final = (1 << 32) - 1


class _Flight(NamedTuple):
    """An item in flight, and when it was sent last."""

    payload: bytes
    sent_at: float


class Sender:
    """The items for one peer."""

    __slots__ = ("_attempt", "_first", "_flights", "_lost", "_next", "_sources", "_window")

    def __init__(self) -> None:
        self._sources: deque[Iterator[bytes]] = deque()
        self._flights: OrderedDict[int, _Flight] = OrderedDict()
        """In the order in which they were sent last."""
        self._lost: OrderedDict[int, bytes] = OrderedDict()
        self._first = self._next = 1
        """The first item that has not arrived, as far as this node knows, and the next one to be sent."""
        self._window = FIRST_WINDOW
        self._attempt = 0

    @property
    def idle(self) -> bool:
        """Whether everything is acknowledged and nothing waits."""
        return not (self._flights or self._lost or self._sources)

    def append(self, items: Iterable[bytes]) -> None:
        """Send these items after all others. An item is asked for when there is room for it."""
        self._sources.append(iter(items))

    def restart(self) -> None:
        """Begin the stream again: the peer has another session."""
        left = sorted([*((n, one.payload) for n, one in self._flights.items()), *self._lost.items()])
        if left:
            self._sources.appendleft(iter([payload for _, payload in left]))
        self._flights.clear()
        self._lost.clear()
        self._first = self._next = 1
        self._window, self._attempt = FIRST_WINDOW, 0

    @property
    def next_at(self) -> float:
        """When something is to be sent: 0 for at once, infinity for never."""
        if self._has_room and (self._lost or (self._sources and self._in_span)):
            return 0.0
        first = next(iter(self._flights.values()), None)
        return float("inf") if first is None else first.sent_at + self._repeat_s

    def take(self, now: float, most: int) -> list[tuple[int, bytes]]:
        """Return up to so many items to send now, each with its sequence."""
        self._time_out(now)
        taken: list[tuple[int, bytes]] = []
        while len(taken) < most and self._has_room:
            if self._lost:
                sequence, payload = self._lost.popitem(last=False)
            else:
                item = self._new_item()
                if item is None:
                    break
                sequence, payload = self._next, item
                self._next += 1
            self._flights[sequence] = _Flight(payload, now)
            taken.append((sequence, payload))
        return taken

    def acknowledge(self, payload: bytes) -> None:
        """Take an acknowledgment. One that acknowledges what was never sent changes nothing."""
        following, window, bits = _ACK.unpack(payload)
        if following > self._next:
            return
        self._first = max(self._first, following)
        self._window = min(MAX_WINDOW, max(1, window))
        bitmap = int.from_bytes(bits, "big")
        arrived = [
            n
            for n in (*self._flights, *self._lost)
            if n < following or (n <= following + SPAN and bitmap >> (SPAN - (n - following)) & 1)
        ]
        if not arrived:
            return
        self._attempt = 0
        newest = max((self._flights[n].sent_at for n in arrived if n in self._flights), default=0.0)
        for n in arrived:
            self._flights.pop(n, None)
            self._lost.pop(n, None)
        self._lose_until(newest - REORDERED_S)

    @property
    def _has_room(self) -> bool:
        return len(self._flights) < self._window

    @property
    def _in_span(self) -> bool:
        return self._next < self._first + SPAN and self._next < _MAX_SEQUENCE

    @property
    def _repeat_s(self) -> float:
        return min(MAX_REPEAT_S, REPEAT_S * 2.0 ** min(self._attempt, 10))

    def _new_item(self) -> bytes | None:
        while self._sources and self._in_span:
            item = next(self._sources[0], None)
            if item is not None:
                return item
            self._sources.popleft()
        return None

    def _time_out(self, now: float) -> None:
        first = next(iter(self._flights.values()), None)
        if first is None or now < first.sent_at + self._repeat_s:
            return
        self._lose_until(now - self._repeat_s)
        self._attempt += 1

    def _lose_until(self, sent_at: float) -> None:
        for n in list(itertools.takewhile(lambda n: self._flights[n].sent_at <= sent_at, self._flights)):
            self._lost[n] = self._flights.pop(n).payload


class Receiver:
    """The items of one peer's stream, in order."""

    __slots__ = ("_bitmap", "_early", "_next", "received_at", "unacknowledged")

    def __init__(self) -> None:
        self._next = 1
        self._early: dict[int, bytes] = {}
        """Those that arrived before an earlier one."""
        self._bitmap = 0
        """A bit for each of these: the lowest for the one that is `SPAN` after the next."""
        self.unacknowledged = False
        self.received_at = float("-inf")
        """When the last item arrived."""

    def add(self, sequence: int, payload: bytes, now: float) -> list[bytes]:
        """Take an item; return those that are next in order now. One too far ahead is not kept."""
        if sequence > self._next + SPAN:
            return []
        self.unacknowledged = True
        self.received_at = now
        if sequence < self._next:
            return []
        self._early[sequence] = payload
        self._bitmap |= 1 << (SPAN - (sequence - self._next))
        found = []
        while (item := self._early.pop(self._next, None)) is not None:
            found.append(item)
            self._next += 1
            self._bitmap = self._bitmap << 1 & _BITS
        return found

    def acknowledgment(self, window: int) -> bytes:
        """Return the acknowledgment of everything that has arrived."""
        self.unacknowledged = False
        return _ACK.pack(self._next, window, self._bitmap.to_bytes(SPAN // 8, "big"))


def window_of_each(streams: int) -> int:
    """Return the window of each of so many streams that arrive at the same time."""
    return min(MAX_WINDOW, max(MIN_WINDOW, RECEIVE_WINDOW // max(1, streams)))
