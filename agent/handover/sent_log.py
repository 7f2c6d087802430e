# SPDX-License-Identifier: Apache-2.0
"""Which sessions of rows of other owners were sent to these: what is to be sent, and what may be freed here. Pure.

A node may hold sessions of rows that it does not own: it owned them before, or packets came here while the owner was
silent or pulled. They go to the owner; once it has them and `SETTLED_TICKS` passed without a packet here, they are
freed, since their copies would grow old. Those that it cannot take stay here, and it is reminded of them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.handover.row_move import Rows
from bpf.layout.session import WAYS

SETTLED_TICKS: Final = 28
"""Half a minute: by then no node has the former chains."""
RENEWED_TICKS: Final = 40
"""What an owner cannot take is sent again in this interval: the owner reserves its slot for 55 ticks (scan.py)."""
_KEPT: Final = 1 << 31
"""With the tick when a slot's session was sent: the owner could not take it."""


class SentLog:
    """When each slot's session was sent to its owner."""

    def __init__(self, slots: int) -> None:
        self._at = np.zeros(slots, np.uint32)

    def note(self, slots: NDArray[np.int64], tick: int) -> None:
        """Note that these are sent now."""
        self._at[slots] = max(1, tick)

    def keep(self, slots: NDArray[np.int64], tick: int) -> None:
        """Do not free these: the owner has answered now that it cannot take them."""
        self._at[slots] = _KEPT | tick

    def forget(self, rows: Rows, but: NDArray[np.int64] | None = None) -> None:
        """Forget what was sent of these rows, but for these slots."""
        some = np.zeros(0, np.int64) if but is None else but
        kept = self._at[some]
        self._at.reshape(-1, len(rows), WAYS)[:, rows] = 0
        self._at[some] = kept

    def unsent(self, slots: NDArray[np.int64], ages: NDArray[np.uint32], tick: int) -> NDArray[np.bool_]:
        """Return which had packets since they were sent, but were not sent in this tick; and what the owner is to be
        reminded of. `ages` are ticks since the last packet."""
        at = self._at[slots].astype(np.int64)
        since = tick - (at & ~_KEPT)
        due = np.where(at & _KEPT != 0, since >= RENEWED_TICKS, (ages <= since) & (since > 0))
        found: NDArray[np.bool_] = (at == 0) | due
        return found

    def settled(self, slots: NDArray[np.int64], ages: NDArray[np.uint32], tick: int) -> NDArray[np.bool_]:
        """Return which were sent long ago and had no packet since."""
        at = self._at[slots].astype(np.int64)
        found: NDArray[np.bool_] = (at > 0) & (at & _KEPT == 0) & (tick - at >= SETTLED_TICKS) & (ages > tick - at)
        return found
