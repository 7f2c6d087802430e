# SPDX-License-Identifier: Apache-2.0
"""Which sessions of rows of other owners were sent to these: what is to be sent, and what may be freed here. Pure.

A node may hold sessions of rows that it does not own: it owned them before, or packets came here while the owner was
silent or pulled. They go to the owner; once it has them and `SETTLED_TICKS` passed without a packet here, they are
freed, since their copies would grow old.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.handover.row_move import Rows
from bpf.layout.session import WAYS

SETTLED_TICKS: Final = 28
"""Half a minute: by then no node has the former chains."""
_KEPT: Final = 0xFFFF_FFFF


class SentLog:
    """When each slot's session was sent to its owner."""

    def __init__(self, slots: int) -> None:
        self._at = np.zeros(slots, np.uint32)

    def note(self, slots: NDArray[np.int64], tick: int) -> None:
        """Note that these are sent now."""
        self._at[slots] = max(1, tick)

    def keep(self, slots: NDArray[np.int64]) -> None:
        """Neither send these again nor free them: the owner cannot take them."""
        self._at[slots] = _KEPT

    def forget(self, rows: Rows, but: NDArray[np.int64] | None = None) -> None:
        """Forget what was sent of these rows, but for these slots."""
        some = np.zeros(0, np.int64) if but is None else but
        kept = self._at[some]
        self._at.reshape(-1, len(rows), WAYS)[:, rows] = 0
        self._at[some] = kept

    def unsent(self, slots: NDArray[np.int64], ages: NDArray[np.uint32], tick: int) -> NDArray[np.bool_]:
        """Return which had packets since they were sent, but were not sent in this tick. `ages` are ticks since the
        last packet."""
        at = self._at[slots].astype(np.int64)
        found: NDArray[np.bool_] = (at == 0) | ((ages <= tick - at) & (at < tick))
        return found

    def settled(self, slots: NDArray[np.int64], ages: NDArray[np.uint32], tick: int) -> NDArray[np.bool_]:
        """Return which were sent long ago and had no packet since."""
        at = self._at[slots].astype(np.int64)
        found: NDArray[np.bool_] = (at > 0) & (tick - at >= SETTLED_TICKS) & (ages > tick - at)
        return found
