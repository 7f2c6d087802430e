# SPDX-License-Identifier: Apache-2.0
"""The bursts of now, and the nodes that wait for one. Pure; burst.py has the rule of a single burst."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Iterator

from agent.liveness.burst import Burst
from agent.liveness.question import Target
from agent.liveness.schedule import BatchLimit

HINTS, HINTS_S = 128, 0.1
"""At most so many bursts are begun for hints in this time."""


class Bursts:
    """At most one burst to each node."""

    def __init__(self) -> None:
        self._bursts: dict[Target, Burst] = {}
        self._heap: list[tuple[float, int, Target, Burst]] = []
        """By `next_at`. Some are outdated: over, or due at another time."""
        self._serial = itertools.count()
        self._hints: deque[Target] = deque()
        self._limit = BatchLimit(HINTS, HINTS_S)
        self._held = False

    def __contains__(self, target: Target) -> bool:
        return target in self._bursts

    def __iter__(self) -> Iterator[Target]:
        return iter(self._bursts)

    def get(self, target: Target) -> Burst | None:
        """Return a node's burst."""
        return self._bursts.get(target)

    def start(self, target: Target, now: float, prompted: bool) -> Burst:
        """Start a node's burst; its first question is due now."""
        burst = self._bursts[target] = Burst(now, prompted)
        self.schedule(target, burst)
        return burst

    def end(self, target: Target) -> None:
        """End a node's burst, if there is one."""
        self._bursts.pop(target, None)

    def void(self, now: float) -> None:
        """Begin all bursts again."""
        for target, burst in self._bursts.items():
            burst.void(now)
            self.schedule(target, burst)

    def schedule(self, target: Target, burst: Burst) -> None:
        """Have `due` return a burst at its `next_at`."""
        heapq.heappush(self._heap, (burst.next_at, next(self._serial), target, burst))

    def due(self, now: float) -> Iterator[tuple[Target, Burst]]:
        """Return the bursts in which something is due. Call `schedule` or `end` for each."""
        while self._oldest() <= now:
            _, _, target, burst = heapq.heappop(self._heap)
            yield target, burst

    def hint(self, target: Target, now: float) -> None:
        """Have a burst to a node begin soon."""
        if not target.queued and target not in self._bursts:
            target.queued = True
            self._hints.append(target)
            self._limit.due(now)

    def hold(self) -> None:
        """Turn all bursts into hints, and follow none until `release`."""
        self._held = True
        for target in list(self._bursts):
            self.end(target)
            self.hint(target, 0)

    def release(self, now: float) -> None:
        """Follow hints again."""
        self._held = False
        self._limit.due(now)

    def hinted(self, now: float) -> Iterator[Target]:
        """Return the nodes to which bursts are to begin for hints, not too many at once."""
        while self._hints and not self._held and self._limit.take(now):
            target = self._hints.popleft()
            target.queued = False
            if target not in self._bursts:
                yield target

    @property
    def next_at(self) -> float:
        """When `due` or `hinted` returns something."""
        return min(self._oldest(), self._limit.next_at if self._hints and not self._held else math.inf)

    def _oldest(self) -> float:
        heap = self._heap
        while heap and (self._bursts.get(heap[0][2]) is not heap[0][3] or heap[0][3].next_at != heap[0][0]):
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf
