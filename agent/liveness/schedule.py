# SPDX-License-Identifier: Apache-2.0
"""When something that repeats is due. Pure."""

from __future__ import annotations

import math


class Tick:
    """A repeated event; `at` is inf while it is off. What was missed is not made up for."""

    def __init__(self) -> None:
        self.at = math.inf

    def enable(self, on: bool, now: float, delay_s: float = 0.0) -> None:
        """Turn it on, if it is off, for the first time after a delay; or off."""
        if not on:
            self.at = math.inf
        elif self.at == math.inf:
            self.at = now + delay_s

    def take(self, now: float, interval_s: float) -> bool:
        """Return whether it is due, and schedule the next one."""
        if now < self.at:
            return False
        following = self.at + interval_s
        self.at = following if following > now else now + interval_s
        return True


class BatchLimit:
    """At most `count` events in a period, the first ones at once."""

    def __init__(self, count: int, period_s: float) -> None:
        self._count, self._period_s = count, period_s
        self._begun, self._taken = -math.inf, 0
        self._due = math.inf

    def due(self, now: float) -> None:
        """Note that an event is due from now on."""
        self._due = now

    @property
    def next_at(self) -> float:
        """When the event that is due is allowed."""
        return self._due if self._taken < self._count else max(self._due, self._begun + self._period_s)

    def take(self, now: float) -> bool:
        """Return whether an event is allowed now, and count it."""
        if now >= self._begun + self._period_s:
            self._begun, self._taken = now, 0
        if self._taken >= self._count:
            return False
        self._taken += 1
        return True
