# SPDX-License-Identifier: Apache-2.0
"""The rounds of plain questions: one over the nodes that answer, one over the silent ones. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator

from agent.liveness.question import Target
from agent.liveness.rounds import Rounds
from agent.liveness.schedule import Tick

ROUND_S = 0.05
"""The interval of questions: with N nodes, each of which does the same, also that of questions to one node."""
SILENT_S = 0.25
"""The shortest interval of questions to one silent node."""


class NodeRounds:
    """Which node to ask next. A node that has not answered yet is with those that answer."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._answering, self._silent = Rounds[Target](rng), Rounds[Target](rng)
        self._tick, self._silent_tick = Tick(), Tick()

    def add(self, target: Target, now: float) -> None:
        """Ask a node that is new, or back."""
        self._silent.discard(target)
        self._answering.add(target)
        self._set_ticks(now)

    def set_silent(self, target: Target, now: float) -> None:
        """Ask a node among the silent ones."""
        self._answering.discard(target)
        self._silent.add(target)
        self._set_ticks(now)

    def discard(self, target: Target, now: float) -> None:
        """Do not ask a node any more."""
        self._answering.discard(target)
        self._silent.discard(target)
        self._set_ticks(now)

    def due(self, now: float) -> Iterator[Target]:
        """Return the nodes to ask now, at most one of each kind."""
        if self._tick.take(now, ROUND_S) and (target := self._answering.next()):
            yield target
        if self._silent_tick.take(now, self._silent_interval()) and (target := self._silent.next()):
            yield target

    def sample(self, count: int) -> Iterator[Target]:
        """Return at most so many random nodes of those that answer."""
        return self._answering.sample(count)

    @property
    def next_at(self) -> float:
        """When `due` returns a node."""
        return min(self._tick.at, self._silent_tick.at)

    def _silent_interval(self) -> float:
        return max(ROUND_S, SILENT_S / max(1, len(self._silent)))

    def _set_ticks(self, now: float) -> None:
        self._tick.enable(bool(self._answering), now, ROUND_S * self._rng.random())
        self._silent_tick.enable(bool(self._silent), now, self._silent_interval())
