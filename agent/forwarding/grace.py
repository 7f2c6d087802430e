# SPDX-License-Identifier: Apache-2.0
"""Grace: until when a row that has just changed drops packets that no node claims. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GRACE_S = 10.0
GRACE_IN_ALL_S = 120.0
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Grace:
    """The rows that changed lately, and until when each drops a packet that no node claims: equally long arrays.

    Times are CLOCK_MONOTONIC ns. Of most services few rows change, and there may be many services.
    """

    count: int
    """The number of all rows."""
    rows: NDArray[np.intp]
    """Ascending."""
    deadlines: NDArray[np.uint64]
    first: NDArray[np.uint64]
    """When the row's current run of changes began."""
    last: NDArray[np.uint64]
    """When the row changed last, 0 for never. A run ends when the row has not changed for `GRACE_S`."""

    @staticmethod
    def of(until: NDArray[np.uint64]) -> Grace:
        """Return the grace that an earlier agent left in the kernel; its runs count as ended."""
        rows = np.flatnonzero(until)
        return Grace(len(until), rows, until[rows], np.zeros(len(rows), np.uint64), np.zeros(len(rows), np.uint64))

    @property
    def until(self) -> NDArray[np.uint64]:
        """Until when each row is in grace, 0 for no longer: shape (count,)."""
        return _spread(self.deadlines, self.rows, self.count)

    def fill(self, until: NDArray[np.uint64]) -> None:
        """Write the same to an array of zeros."""
        until[self.rows] = self.deadlines

    def after(self, changed: NDArray[np.bool_], now: float) -> Grace:
        """Return the grace when these rows change now: `GRACE_S` more, `GRACE_IN_ALL_S` at most since the run began.

        While a row changes, the node that holds a connection may be one that no visited chain names yet. A dropped
        packet is sent again by TCP and finds it; a delivered one would be answered with a reset. The bound keeps a
        row that changes all the time from dropping packets forever.
        """
        now_ns, grace_ns = np.uint64(int(now * _NS)), np.uint64(int(GRACE_S * _NS))
        listed = changed.copy()
        kept = (self.deadlines > now_ns) | (self.last + grace_ns > now_ns)
        listed[self.rows[kept]] = True
        rows = np.flatnonzero(listed)
        at = np.searchsorted(rows, self.rows[kept])
        until, first, last = (_spread(one[kept], at, len(rows)) for one in (self.deadlines, self.first, self.last))
        now_changed = changed[rows]
        first = np.where(now_changed & ((last == 0) | (last + grace_ns <= now_ns)), now_ns, first)
        extended = np.minimum(now_ns + grace_ns, first + np.uint64(int(GRACE_IN_ALL_S * _NS)))
        until = np.where(now_changed, np.maximum(until, extended), until)
        return Grace(self.count, rows, until, first, np.where(now_changed, now_ns, last))

    def longest(self, other: Grace) -> Grace:
        """Return the grace of rows that two services share from now on: of each row the longer one."""
        rows = np.union1d(self.rows, other.rows)
        places = [np.searchsorted(rows, one.rows) for one in (self, other)]
        pairs = ((self.deadlines, other.deadlines), (self.first, other.first), (self.last, other.last))
        longer = (
            np.maximum(*(_spread(one, at, len(rows)) for one, at in zip(pair, places, strict=True))) for pair in pairs
        )
        return Grace(self.count, rows, *longer)


def _spread(times: NDArray[np.uint64], at: NDArray[np.intp], count: int) -> NDArray[np.uint64]:
    """Return an array of that length with these times at these places, and zeros."""
    found = np.zeros(count, np.uint64)
    found[at] = times
    return found
