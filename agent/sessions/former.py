# SPDX-License-Identifier: Apache-2.0
"""The sessions with addresses of the former pool of NAT: how many there are, and whether that pool is in use.

The program keeps the sessions of both pools in the same slots; a session's record has its address.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from agent.address import Network
from agent.sessions.selection import in_network
from agent.sessions.session_table import SessionTable
from agent.sessions.tag_array import are_ipv6
from bpf.layout.session import TICK_SHIFT
from bpf.maps.session_map import now_tick

QUIET_S: Final = 5.0
"""For so long no session may be seen before the pool is out of use: one begins between two looks."""
_PART: Final = 1 << 15
_STAMP: Final = np.uint64(0xFFFF_FFFF)
"""A free tag has a stamp alone."""


class FormerPool:
    """What is left of the former pool, at the last look. `pools` are the addresses that sessions have, of each family;
    `gives` returns whether new sessions still get them."""

    def __init__(self, pools: Sequence[Network], table: SessionTable, gives: Callable[[], bool], now: float) -> None:
        self.pools = tuple(pools)
        self.count = 0
        """Sessions, with those that are closed and whose endpoints rest."""
        self.newest_s: int | None = None
        """How long ago the last one of them began, in seconds; None if there is none."""
        self.in_use = False
        """Whether there are some, or may be soon: the pool must be announced."""
        self._table, self._gives = table, gives
        self._used_at = float("-inf")
        self.look(now)

    def look(self, now: float) -> None:
        """Count; `now` is CLOCK_MONOTONIC seconds. It reads the record of each session, so it is for a thread."""
        tick, count, newest = now_tick(), 0, None
        for start in range(0, len(self._table.tags), _PART):
            tags = self._table.tags[start : start + _PART].copy()
            used = np.flatnonzero(tags > _STAMP)
            for pool in self.pools:
                places = start + used[are_ipv6(tags[used]) == (pool.version == 6)]
                records = self._table.records[pool.version]
                places = places[in_network(records["nat"][places], pool, pool.version)]
                if len(places):
                    age = int((np.uint32(tick & 0xFFFF_FFFF) - records["created"][places]).astype(np.int32).min())
                    count, newest = count + len(places), age if newest is None else min(age, newest)
        self.count, self.newest_s = count, None if newest is None else max(0, newest << TICK_SHIFT) // 1_000_000_000
        if count or self._gives():
            self._used_at = now
        self.in_use = now - self._used_at < QUIET_S
