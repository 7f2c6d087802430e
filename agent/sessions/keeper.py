# SPDX-License-Identifier: Apache-2.0
"""The loop over the sessions of a node: once a second it frees what has expired, and finds what the operator must know.

The work is a thread's. With a million sessions at rest a scan takes 8 ms; where it takes longer, there are fewer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

from agent.problem import Problem, ProblemLine
from agent.sessions.former import FormerSessions
from agent.sessions.page import STATE_NAMES
from agent.sessions.scan import Scan, limits, scan
from agent.sessions.session_table import SessionTable
from agent.sessions.watch import SessionWatch
from bpf.layout.session import SessionState
from bpf.maps.session_map import now_tick

PERIOD_S: Final = 1.0
RETRY_S: Final = 0.05
MAX_LOAD: Final = 0.03
"""The share of a core that scans may take."""
RECOUNT_S: Final = 60.0
PRESSURE: Final = 0.5
"""The share of used slots from which half-open sessions end sooner."""
CROWDED: Final = 0.7
"""The share of used slots from which the operator is informed: from 0.8 on some new sessions find no slot."""
REFUSED_S: Final = 60.0
"""How long a refusal is among the problems."""

SLOTS_USED = Problem(
    "nat: more than {share} of the {slots} session slots are used{most}",
    "end what is not needed (`lbctl session list`), or raise nat.sessions (docs/nat.md)",
    "`lbctl session list` shows whose they are. A flood is limited by the backends' answers: half-open sessions end "
    "within seconds.",
)
REFUSED = Problem(
    "nat: new connections are refused, because no slot of their buckets is free (drop_nat_full)",
    "see `lbctl session list` for whose they are; raise nat.sessions (docs/nat.md)",
    "Sessions that exist go on. The line stays for a while after the last refusal.",
)


class SessionKeeper:
    """Frees sessions, and knows how many there are."""

    def __init__(
        self,
        table: SessionTable,
        watch: SessionWatch,
        refused: Callable[[], int],
        service_names: Mapping[int, str],
        on_change: Callable[[], None],
        former: FormerSessions | None = None,
        complete: Callable[[], bool] = lambda: True,
        at_first: Callable[[], None] = lambda: None,
    ) -> None:
        """`refused` counts the new sessions that found no slot, `service_names` are by slot. `on_change` is called when
        the problems differ, or whether what the `former` ones have is in use. `complete`: whether the table has all
        sessions of this node; none is freed or counted before. `at_first` is called then, in a thread."""
        self.table, self.watch, self.former = table, watch, former
        self.service_names = service_names
        self.scan: Scan | None = None
        """The last one; None before the first."""
        self._count_refused, self._on_change = refused, on_change
        self._complete, self._at_first = complete, at_first
        self._refused = refused()
        self._refused_at = self._recounted_at = float("-inf")

    async def run(self) -> None:
        """Scan forever, and serve those who watch."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.watch.run())
            reported = self._reported()
            while not self._complete():
                await asyncio.sleep(RETRY_S)
            await asyncio.to_thread(self._at_first)
            while True:
                cpu_s = await asyncio.to_thread(self._round)
                if reported != (reported := self._reported()):
                    self._on_change()
                await asyncio.sleep(max(PERIOD_S, cpu_s / MAX_LOAD))

    def _reported(self) -> tuple[object, ...]:
        return (*self.problems(), self.former.in_use if self.former is not None else None)

    def problems(self) -> tuple[ProblemLine, ...]:
        """Return what the operator must know, one line each."""
        lines = []
        if self.scan is not None and self.scan.load >= CROWDED:
            slots, states = self.scan.given, self.scan.states
            flood = states[SessionState.SYN] > slots * CROWDED / 2
            most = ", most of them by half-open sessions, which may be a flood of SYNs" if flood else ""
            lines.append(SLOTS_USED.line(share=f"{CROWDED:.0%}", slots=f"{slots:,}", most=most))
        if time.monotonic() - self._refused_at < REFUSED_S:
            lines.append(REFUSED.line())
        return tuple(lines)

    def summary(self) -> dict[str, int]:
        """Return the number of slots for new sessions and of those that are free, and of all sessions by the name of
        their state, at the last scan; empty before it."""
        if self.scan is None:
            return {}
        states = {name: self.scan.states[state] for name, state in STATE_NAMES.items()}
        return {"slots": self.scan.given, **states, "free": self.scan.free}

    def _round(self) -> float:
        """Scan, free and count once; return the CPU seconds that this took."""
        began, now = time.thread_time(), time.monotonic()
        pressure = self.scan is not None and self.scan.load >= PRESSURE
        found = scan(self.table.tags, now_tick(), limits(pressure), self.table.given)
        self.table.free(found.expired, found.tags)
        self.scan = found
        if self.former is not None:
            self.former.look(now)
        refused = self._count_refused()
        if refused > self._refused:
            self._refused_at = now
        self._refused = refused
        if now - self._recounted_at >= RECOUNT_S:
            self.table.recount()
            self._recounted_at = now
        return time.thread_time() - began
