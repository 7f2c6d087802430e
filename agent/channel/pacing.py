# SPDX-License-Identifier: Apache-2.0
"""When datagrams are sent: the window of unacknowledged ones, and the timers of 1,000 peers. Pure; `now` is
CLOCK_MONOTONIC seconds. No call visits all peers."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

Slot = tuple[int, int, int]
"""Peer, sequence and part of a datagram."""
_T = TypeVar("_T")


class Window:
    """The datagrams in flight: at most `size` that were sent in the last `duration_s` and are not acknowledged.

    A datagram that is older counts no more: dead peers must not hold the window for as long as they are repeated to.
    """

    def __init__(self, size: int, duration_s: float) -> None:
        self._size, self._duration_s = size, duration_s
        self._expiry: OrderedDict[Slot, float] = OrderedDict()
        """In the order of time, as each lasts equally long."""

    @property
    def is_open(self) -> bool:
        """Whether another datagram may be sent."""
        return len(self._expiry) < self._size

    @property
    def opens_at(self) -> float:
        """When the oldest datagram expires; infinity if there is none."""
        return next(iter(self._expiry.values()), float("inf"))

    def add(self, slot: Slot, now: float) -> None:
        """Count a datagram that is sent now."""
        self._expiry[slot] = now + self._duration_s
        self._expiry.move_to_end(slot)

    def release(self, slot: Slot) -> None:
        """Count a datagram no more: it is acknowledged."""
        self._expiry.pop(slot, None)

    def expire(self, now: float) -> None:
        """Count those no more that are too old."""
        while self.opens_at <= now:
            self._expiry.popitem(last=False)


class Timers(Generic[_T]):
    """At most one timer for each key."""

    def __init__(self) -> None:
        self._due: dict[_T, float] = {}
        self._heap: list[tuple[float, int, _T]] = []
        """May contain timers that were set again or canceled since."""
        self._order = itertools.count()

    @property
    def next_at(self) -> float:
        """When the first timer is due; infinity if none is set."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")

    def set(self, key: _T, at: float) -> None:
        """Set a key's timer, in place of the one before."""
        self._due[key] = at
        heapq.heappush(self._heap, (at, next(self._order), key))

    def cancel(self, key: _T) -> None:
        """Cancel a key's timer, if it has one."""
        self._due.pop(key, None)

    def pop_due(self, now: float) -> Iterator[_T]:
        """Return the keys whose timers are due, and cancel these."""
        while self.next_at <= now:
            key = heapq.heappop(self._heap)[2]
            self._due.pop(key, None)
            yield key
