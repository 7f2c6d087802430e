# SPDX-License-Identifier: Apache-2.0
"""The end of processes as an event (pidfd): for what nothing else shows, as a listener that systemd keeps open. I/O
only."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable


class EndWatch:
    """Watches processes. Must be closed in the loop that it is used in."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        """Set when one of them ends; who has seen it clears it."""
        self._open: dict[int, int] = {}
        """Descriptors by process."""
        self._over: set[int] = set()
        """Those that have ended, each an event once: one that its parent has not waited for stays in /proc."""

    def watch(self, pids: Iterable[int]) -> None:
        """Watch these processes and no others. One that has ended counts as ending now."""
        wanted = set(pids)
        for pid in self._open.keys() - wanted:
            self._forget(pid)
        self._over &= wanted
        for pid in wanted - self._open.keys() - self._over:
            try:
                self._open[pid] = os.pidfd_open(pid)
            except ProcessLookupError:
                self._over.add(pid)
                self.ended.set()
            except OSError:  # no descriptor is left: the next look finds it
                continue
            else:
                asyncio.get_running_loop().add_reader(self._open[pid], self._end, pid)

    def close(self) -> None:
        """Watch nothing."""
        self.watch(())

    def _end(self, pid: int) -> None:
        self._forget(pid)
        self._over.add(pid)
        self.ended.set()

    def _forget(self, pid: int) -> None:
        descriptor = self._open.pop(pid)
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
