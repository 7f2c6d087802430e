# SPDX-License-Identifier: Apache-2.0
"""What comes next: all in turn, in a random order that stays. Pure.

The order stays so that no node waits longer than one round; it is random so that the nodes' rounds differ.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Rounds(Generic[T]):
    """A set of things in a random order. Each call costs the same, however many there are, on average."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._members: set[T] = set()
        self._order: list[T] = []
        """Also holds some that were discarded, until the end of the round."""
        self._listed: set[T] = set()
        self._at = 0

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, one: T) -> bool:
        return one in self._members

    def add(self, one: T) -> None:
        """Add one at a random place."""
        self._members.add(one)
        if one not in self._listed:
            self._listed.add(one)
            self._order.insert(self._rng.randint(0, len(self._order)), one)

    def discard(self, one: T) -> None:
        """Remove one."""
        self._members.discard(one)

    def next(self) -> T | None:
        """Return the next one, after the last the first again; None if there is none."""
        while self._members:
            if self._at >= len(self._order):
                self._order = [one for one in self._order if one in self._members]
                self._listed = set(self._order)
                self._at = 0
            one = self._order[self._at]
            self._at += 1
            if one in self._members:
                return one
        return None

    def sample(self, count: int) -> Iterator[T]:
        """Return at most so many random ones, each once."""
        chosen = self._rng.sample(self._order, min(count, len(self._order)))
        return (one for one in chosen if one in self._members)
