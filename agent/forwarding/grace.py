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
    """Until when each row drops a packet that no node claims: CLOCK_MONOTONIC ns, uint64 of shape (rows,)."""

    until: NDArray[np.uint64]
    first: NDArray[np.uint64]
    """When the row's current run of changes began."""
    last: NDArray[np.uint64]
    """When the row changed last. A run ends when the row has not changed for `GRACE_S`."""

    @staticmethod
    def of(until: NDArray[np.uint64]) -> Grace:
        """Return the grace that an earlier agent left in the kernel; its runs count as ended."""
        return Grace(until, np.zeros_like(until), np.zeros_like(until))

    def after(self, changed: NDArray[np.bool_], now: float) -> Grace:
        """Return the grace when these rows change now: `GRACE_S` more, `GRACE_IN_ALL_S` at most since the run began.

        While a row changes, the node that holds a connection may be one that no visited chain names yet. A dropped
        packet is sent again by TCP and finds it; a delivered one would be answered with a reset. The bound keeps a
        row that changes all the time from dropping packets forever.
        """
        now_ns, grace_ns = np.uint64(int(now * _NS)), np.uint64(int(GRACE_S * _NS))
        first = np.where(changed & (self.last + grace_ns <= now_ns), now_ns, self.first)
        extended = np.minimum(now_ns + grace_ns, first + np.uint64(int(GRACE_IN_ALL_S * _NS)))
        until = np.where(changed, np.maximum(self.until, extended), self.until)
        return Grace(until, first, np.where(changed, now_ns, self.last))

    def longest(self, other: Grace) -> Grace:
        """Return the grace of rows that two services share from now on: of each row the longer one."""
        return Grace(
            np.maximum(self.until, other.until), np.maximum(self.first, other.first), np.maximum(self.last, other.last)
        )
