# SPDX-License-Identifier: Apache-2.0
"""Which node to ask by the encapsulations that packets use, and when. Pure.

A fabric may pass plain frames and drop UDP port 6080, or frames with a marker as their source MAC. So each node is
asked by each encapsulation at first contact, and again every VIA_S, with many nodes every N/5 s. An unanswered question
is repeated, ATTEMPTS times in all, before the next round.
"""

from __future__ import annotations

import math
import random
from collections import deque

from agent.liveness.question import PathStats, Target, Via
from agent.liveness.rounds import Rounds
from agent.liveness.schedule import Tick

VIA_S = 30.0
NODES_PER_S = 5
PACE_S = 0.005
"""The interval of questions to nodes that are all new."""
ATTEMPTS = 4


class PathRounds:
    """The rounds over nodes and encapsulations."""

    def __init__(self, rng: random.Random) -> None:
        self.vias: tuple[Via, ...] = ()
        self._rounds = Rounds[Target](rng)
        self._tick = Tick()
        self._queue: deque[tuple[Target, Via]] = deque()
        self._pace = Tick()

    def add(self, target: Target, now: float) -> None:
        """Include a node in the rounds."""
        self._rounds.add(target)
        self._tick.enable(True, now, self._interval())

    def discard(self, target: Target) -> None:
        """Leave a node out from now on."""
        self._rounds.discard(target)
        if not self._rounds:
            self._tick.enable(False, 0)

    def contact(self, target: Target, now: float) -> None:
        """Ask a node soon."""
        for via in self.vias:
            self._ask_soon(target, via, now)

    def lost(self, target: Target, via: Via, stats: PathStats, now: float) -> None:
        """Ask again as a question that was not answered went."""
        if stats.in_a_row < ATTEMPTS:
            self._ask_soon(target, via, now)

    def take(self, now: float) -> tuple[Target, Via] | None:
        """Return what to ask now."""
        if self._tick.take(now, self._interval()) and (target := self._rounds.next()):
            self.contact(target, now)
        if not self._queue or not self._pace.take(now, PACE_S):
            return None
        target, via = self._queue.popleft()
        self._pace.enable(bool(self._queue), now)
        return (target, via) if via in self.vias and target in self._rounds else None

    @property
    def next_at(self) -> float:
        """When `take` is due."""
        return min(self._tick.at if self.vias else math.inf, self._pace.at)

    def _interval(self) -> float:
        return max(VIA_S / max(1, len(self._rounds)), 1 / NODES_PER_S)

    def _ask_soon(self, target: Target, via: Via, now: float) -> None:
        self._queue.append((target, via))
        self._pace.enable(True, now)
