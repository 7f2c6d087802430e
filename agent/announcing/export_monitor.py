# SPDX-License-Identifier: Apache-2.0
"""The export status of each VIP at each peer as it changes, and who watches it (`lbctl announce watch`).

What a status is, and its history, is export_status.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator

from agent.announcing.export_status import ExportHistory, ExportStatus, StatusEntry

MAX_UNREAD = 1000
"""Changes that one watcher may leave unread before it is disconnected."""


class ExportMonitor:
    """The latest export statuses, and the queues of the watchers."""

    def __init__(self, entries: Iterable[StatusEntry]) -> None:
        """`entries` come from an earlier agent."""
        self._history = ExportHistory(entries)
        self._watchers: set[asyncio.Queue[StatusEntry | None]] = set()

    @property
    def entries(self) -> tuple[StatusEntry, ...]:
        """The export status of each VIP at each peer, with its time."""
        return self._history.entries

    def observe(self, statuses: Iterable[ExportStatus], wall: float) -> None:
        """Record the export status of all VIPs, and send what changed to the watchers. `wall`: seconds since 1970."""
        for entry in self._history.observe(statuses, wall):
            for queue in tuple(self._watchers):
                if queue.full():
                    self._watchers.discard(queue)
                    queue.get_nowait()
                    queue.put_nowait(None)
                else:
                    queue.put_nowait(entry)

    @contextlib.contextmanager
    def watch(self) -> Iterator[asyncio.Queue[StatusEntry | None]]:
        """Yield a queue of the changes from now on; it ends with None when the watcher left too many unread."""
        queue: asyncio.Queue[StatusEntry | None] = asyncio.Queue(MAX_UNREAD)
        self._watchers.add(queue)
        try:
            yield queue
        finally:
            self._watchers.discard(queue)
