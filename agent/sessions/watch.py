# SPDX-License-Identifier: Apache-2.0
"""Changes of sessions for those who watch them. While there is no watcher, neither program nor agent writes any.

The program's changes come by a ring buffer, the agent's own from the session table.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from agent.sessions.cause import Cause
from agent.sessions.page import encode, rows_of
from agent.sessions.selection import Selection
from agent.sessions.session_table import SessionTable
from agent.sessions.tag_array import Slots, Tags, are_ipv6, same_session, states_of
from bpf.layout.session import SessionState
from bpf.maps.ring_reader import RingReader
from bpf.maps.session_dtype import EVENT_DTYPE
from bpf.maps.session_map import now_tick

PERIOD_S: Final = 0.1
FULL: Final = 32_000
"""Events that nearly fill the ring buffer: of so many in one period some were lost."""
QUEUE: Final = 64
"""Pages that a watcher may be behind: then it misses some, and is informed how many events."""


Change = tuple[Slots, Tags, Tags, Cause]
"""Slots, their tags before and after, and why they changed."""


@dataclass(slots=True, eq=False)
class _Watcher:
    selection: Selection
    pages: asyncio.Queue[bytes] = field(default_factory=lambda: asyncio.Queue(QUEUE))
    missed: int = 0


class SessionWatch:
    """The watchers, and the task that brings them events."""

    def __init__(
        self, table: SessionTable, open_reader: Callable[[], RingReader[bytes]], set_watched: Callable[[bool], None]
    ) -> None:
        """`set_watched` has the program write events, or no more."""
        self._table, self._open_reader, self._set_watched = table, open_reader, set_watched
        self._watchers: list[_Watcher] = []
        self._wanted = asyncio.Event()
        self._own: deque[Change] = deque()

    async def pages(self, selection: Selection) -> AsyncGenerator[bytes, None]:
        """Yield the changes of the selected sessions, a page of rows each time, without end."""
        watcher = _Watcher(selection)
        self._watchers.append(watcher)
        self._wanted.set()
        try:
            while True:
                yield await watcher.pages.get()
        finally:
            self._watchers.remove(watcher)

    async def run(self) -> None:
        """Bring the watchers their events, forever."""
        self._set_watched(False)  # an agent that was killed may have left it on
        while True:
            await self._wanted.wait()
            with contextlib.closing(self._open_reader()) as reader, self._watching():
                reader.read()  # what an earlier watcher left
                while self._watchers:
                    await asyncio.sleep(PERIOD_S)
                    changes = await asyncio.to_thread(self._collect, reader)
                    for watcher in tuple(self._watchers):  # some may end meanwhile
                        await self._bring(watcher, changes)
            self._wanted.clear()

    def _collect(self, reader: RingReader[bytes]) -> list[Change]:
        """Return what has changed since the last call: in the program, then in the agent."""
        own = [self._own.popleft() for _ in range(len(self._own))]
        read = reader.read()
        if len(read) >= FULL:
            for watcher in self._watchers:
                watcher.missed += 1
        events = np.frombuffer(b"".join(read), EVENT_DTYPE)
        slots = events["slot"].astype(np.int64)
        return [(slots, events["before"].copy(), events["after"].copy(), Cause.PACKET), *own]

    async def _bring(self, watcher: _Watcher, changes: Iterable[Change]) -> None:
        for change in changes:
            missed, watcher.missed = watcher.missed, 0
            pages = await asyncio.to_thread(pages_of, self._table, watcher.selection, change, now_tick(), missed)
            for page in pages:
                try:
                    watcher.pages.put_nowait(page)
                except asyncio.QueueFull:
                    watcher.missed = missed + len(change[0])

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        self._table.on_change = self._on_change
        self._set_watched(True)
        try:
            yield
        finally:
            self._set_watched(False)
            self._table.on_change = None
            self._own.clear()

    def _on_change(self, slots: Slots, before: Tags, after: Tags, cause: Cause) -> None:
        self._own.append((slots, before, after, cause))


def pages_of(table: SessionTable, selection: Selection, change: Change, now: int, missed: int) -> list[bytes]:
    """Return the pages of the selected sessions among those that have changed, one for each IP version.

    `missed` is how many changes the watcher did not get before. The record of a slot that has another session by now is
    not known: such a change matches only if the record does not matter.
    """
    slots, before, after, cause = change
    now_there = table.tags[slots]
    last = np.where(states_of(after) == SessionState.FREE, before, after)
    known = (states_of(now_there) == SessionState.FREE) | same_session(last, now_there)
    pages = []
    for version, records in table.records.items():
        places = np.flatnonzero((are_ipv6(last) == (version == 6)) & np.isin(states_of(after), selection.states))
        found = records[slots[places]]
        matching = np.where(known[places], selection.matches(found, version), selection.is_of_any_record)
        chosen = places[matching]
        if len(chosen) or missed:
            rows = rows_of(version, slots[chosen], after[chosen], found[matching], before[chosen])
            rows["known"], rows["cause"] = known[chosen], cause
            pages.append(encode(version, now, rows, missed))
            missed = 0
    return pages
