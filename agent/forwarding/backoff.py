# SPDX-License-Identifier: Apache-2.0
"""When to ask for neighbors that do not answer: ever less often. Pure; `now` is CLOCK_MONOTONIC seconds.

Each attempt is three broadcasts on the link (ARP) or multicasts (neighbor discovery). A cluster may name a thousand
nodes that are gone; and one that is back asks for others itself, which the kernel learns from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, KeysView, Set
from typing import Final

from agent.netlink.neighbor import Neighbor

FIRST_S: Final = 1.0
"""The interval of the kernel's own three attempts."""
MAX_S: Final = 30.0
_JITTER: Final = 64
"""Addresses that follow each other are asked for at that many different times."""


class Backoff:
    """The neighbors that do not answer, and when to ask for each next."""

    def __init__(self) -> None:
        self._due: dict[Neighbor, tuple[float, float]] = {}
        """When, and how long to wait after that."""

    @property
    def neighbors(self) -> KeysView[Neighbor]:
        """The neighbors that do not answer."""
        return self._due.keys()

    @property
    def next_at(self) -> float:
        """When the first of them is due; infinity if there is none."""
        return min((at for at, _ in self._due.values()), default=math.inf)

    def add(self, neighbors: Iterable[Neighbor], now: float) -> None:
        """Ask for these at once, but for those that wait already."""
        for one in neighbors:
            self._due.setdefault(one, (now, FIRST_S))

    def failed(self, neighbor: Neighbor, now: float) -> None:
        """Note that the kernel has asked for a neighbor in vain."""
        self._due.setdefault(neighbor, (now + FIRST_S, 2 * FIRST_S))

    def answered(self, neighbor: Neighbor) -> None:
        """Note that a neighbor's MAC is known."""
        self._due.pop(neighbor, None)

    def keep(self, neighbors: Set[Neighbor]) -> None:
        """Forget all others."""
        self._due = {one: due for one, due in self._due.items() if one in neighbors}

    def reset(self, now: float) -> None:
        """Ask for all at once, and then as at first: a link has changed."""
        self._due = dict.fromkeys(self._due, (now, FIRST_S))

    def take(self, now: float) -> set[Neighbor]:
        """Return those to ask for now, and put each off: twice as long as the last time, at most `MAX_S`."""
        due = {one for one, (at, _) in self._due.items() if at <= now}
        for one in due:
            wait = self._due[one][1]
            early = int(one[1]) % _JITTER / _JITTER / 4
            self._due[one] = now + wait * (1 - early), min(2 * wait, MAX_S)
        return due
