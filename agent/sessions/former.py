# SPDX-License-Identifier: Apache-2.0
"""The sessions with addresses of the former pool of NAT, or that began with the former number of sessions: how many
there are, and whether what was given before is in use.

The program keeps all sessions in the same slots; a session's record has its address, and the number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from agent.address import Network
from agent.sessions.selection import Records, in_network
from agent.sessions.session_table import SessionTable
from agent.sessions.tag_array import Mask, Slots, are_ipv6
from bpf.layout.nat import bucket_bits
from bpf.layout.session import TICK_SHIFT
from bpf.maps.session_map import now_tick

QUIET_S: Final = 5.0
"""For so long no session may be seen before the pool is out of use: one begins between two looks."""
_PART: Final = 1 << 15
_STAMP: Final = np.uint64(0xFFFF_FFFF)
"""A free tag has a stamp alone."""


class FormerSessions:
    """What is left of what was given before, at the last look. `pools` are the addresses of the former pools, of each
    family, or `sessions` is the former number; `gives` returns whether new sessions still get these."""

    def __init__(
        self,
        table: SessionTable,
        gives: Callable[[], bool],
        pools: Sequence[Network] = (),
        sessions: int | None = None,
    ) -> None:
        self.pools, self.sessions = tuple(pools), sessions
        self.count = 0
        """Sessions, with those that are closed and whose endpoints rest."""
        self.newest_s: int | None = None
        """How long ago the last one of them began, in seconds; None if there is none."""
        self.in_use: bool | None = None
        """Whether there are some, or may be soon: a former pool must be announced. None before the first look: it must
        be if it is."""
        self._table, self._gives = table, gives
        self._used_at = float("-inf")

    def look(self, now: float) -> None:
        """Count; `now` is CLOCK_MONOTONIC seconds. It reads the record of each session, so it is for a thread."""
        tick, count, newest = now_tick(), 0, None
        for start in range(0, len(self._table.tags), _PART):
            tags = self._table.tags[start : start + _PART].copy()
            used = np.flatnonzero(tags > _STAMP)
            for version, records in self._table.records.items():
                places = start + used[are_ipv6(tags[used]) == (version == 6)]
                places = places[self._are_former(records, places, version)]
                if len(places):
                    age = int((np.uint32(tick & 0xFFFF_FFFF) - records["created"][places]).astype(np.int32).min())
                    count, newest = count + len(places), age if newest is None else min(age, newest)
        self.count, self.newest_s = count, None if newest is None else max(0, newest << TICK_SHIFT) // 1_000_000_000
        if count or self._gives():
            self._used_at = now
        self.in_use = now - self._used_at < QUIET_S

    def _are_former(self, records: Records, places: Slots, version: int) -> Mask:
        if self.sessions is not None:
            of_number: Mask = np.equal(records["bucket_bits"][places], bucket_bits(self.sessions))
            return of_number
        pool = next((pool for pool in self.pools if pool.version == version), None)
        return in_network(records["nat"][places], pool, version) if pool else np.zeros(len(places), np.bool_)
