# SPDX-License-Identifier: Apache-2.0
"""The session slots of this node, in memory that the program uses at the same time: freeing and closing sessions.

A tag is changed only if it is still what was read: a session that got a packet meanwhile lives on. What is closed or
freed here is taken off its backend's count of active sessions, as the program does for what it closes. For threads: a
call with many slots pauses, so that the event loop goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent.sessions.cause import Cause, OnChange
from agent.sessions.tag_array import Slots, Tags, are_ipv6, are_live
from bpf.kernel import atomic
from bpf.layout.session import SessionState, TagFlag
from bpf.maps.nat_maps import NatMaps
from bpf.maps.session_map import SessionMap

SLICE: Final = 1024
"""Changes between two pauses: a millisecond in which no other thread of this process runs Python."""
PAUSE_S: Final = 0.001
_KEPT: Final = np.uint64(0xFFFF_00FF_0000_0000)
"""Fingerprint and flags of a tag."""
_ODD: Final = np.uint64(1 << 48)
"""Set in the fingerprint of each flow: without it, no flow has the session."""
_STAMP: Final = np.uint64(0xFFFF_FFFF)

PART: Final = 1 << 15
"""Slots that are counted in one go."""

Loads = npt.NDArray[np.uint64]
"""`struct backend_load` by backend, shape (BACKENDS, 2): active, chosen."""


class SessionTable:
    """The tags and records of all slots, and the backends' counts."""

    def __init__(self, sessions: SessionMap, nat: NatMaps) -> None:
        """Raises BpfError if there are no atomic operations on this machine."""
        atomic.library()
        self._sessions, self._nat = sessions, nat
        self._lock = threading.Lock()
        """Held while tags are changed, until the backends' counts are."""
        self._drift = np.zeros(len(nat.loads), np.int64)
        """By how much the counts of backends seemed wrong at the last look."""
        self.on_change: OnChange | None = None
        """Called in the thread that makes a change; None while it interests no one."""

    @property
    def tags(self) -> Tags:
        """The tags by slot: the memory that the program uses."""
        return self._sessions.tags

    @property
    def given(self) -> int:
        """How many slots new sessions may get, the first ones: fewer than there are while `nat.sessions` changes."""
        conf = self._nat.conf()
        return min(conf.sessions, len(self.tags)) if conf is not None else len(self.tags)

    @property
    def records(self) -> Mapping[int, npt.NDArray[Any]]:
        """The records by slot, for each IP version: the memory that the program uses."""
        four, six = self._sessions.sessions4, self._sessions.sessions6
        return {4: four} if six is None else {4: four, 6: six}

    def free(self, slots: Slots, tags: Tags) -> int:
        """Free the slots whose tags are still these; return how many were.

        The stamps stay: of free slots the program takes the one that was left first.
        """
        return self._exchange(slots, tags, tags & _STAMP, Cause.EXPIRED)

    def close(self, slots: Slots, tags: Tags, now: int) -> int:
        """Close the sessions whose tags are still these; return how many were. `now` is a tick.

        An even fingerprint hides them from their clients: the program answers the next segment with a RST. Their NAT
        endpoints rest as those of any closed session.
        """
        changed = SessionState.CLOSED << 40 | TagFlag.RESET << 32 | now & 0xFFFF_FFFF
        return self._exchange(slots, tags, tags & ~_ODD & _KEPT | np.uint64(changed), Cause.CLOSED)

    def report(self, slots: Slots, before: Tags, after: Tags, cause: Cause) -> None:
        """Report changes to those who watch, also what others than this table made."""
        if self.on_change is not None and len(slots):
            self.on_change(slots, before, after, cause)

    def backends_of(self, slots: Slots, tags: Tags) -> npt.NDArray[np.int64]:
        """Return the index of the backend of each session."""
        found = np.zeros(len(slots), np.int64)
        for version, records in self.records.items():
            chosen = are_ipv6(tags) == (version == 6)
            found[chosen] = records["backend_index"][slots[chosen]]
        return found

    def add_active(self, backends: npt.NDArray[np.int64], sign: int) -> None:
        """Count sessions of these backends, one for each time that an index is given; `sign` is 1 or -1."""
        self._add(sign * np.bincount(backends))

    def recount(self) -> int:
        """Count the sessions of each backend and correct what is wrong; return by how much in all.

        It is wrong after a process was ended between a change of a tag and that of the count. Where another is just in
        between, it only seems so: what is corrected was wrong at the call before, too.
        """
        with self._lock:
            before = self._nat.loads.copy()
            counted = np.zeros(len(before), np.int64)
            for start in range(0, len(self.tags), PART):
                tags = self.tags[start : start + PART].copy()
                live = np.flatnonzero(are_live(tags))
                counted += np.bincount(self.backends_of(start + live, tags[live]), minlength=len(counted))
            found = drift(counted, before, self._nat.loads.copy())
            wrong = common(self._drift, found)
            self._add(wrong)
            self._drift = found - wrong
        return int(np.abs(wrong).sum())

    def _add(self, differences: npt.NDArray[np.int64]) -> None:
        for backend in np.flatnonzero(differences).tolist():
            atomic.add(self._nat.loads.reshape(-1), 2 * backend, int(differences[backend]))

    def _exchange(self, slots: Slots, before: Tags, after: Tags, cause: Cause) -> int:
        changed = 0
        for start in range(0, len(slots), SLICE):
            if start:
                time.sleep(PAUSE_S)
            part = slice(start, start + SLICE)
            places, old, new = slots[part], before[part], after[part]
            with self._lock:
                backends = self.backends_of(places, old)  # read first: afterwards the slot may be another session's
                done = atomic.compare_exchange(self.tags, places, old, new)
                self.add_active(backends[done & are_live(old)], -1)
            self.report(places[done], old[done], new[done], cause)
            changed += int(np.count_nonzero(done))
        return changed


def common(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return what two differences have in common: the one nearer to 0, or 0 if their signs differ. Pure."""
    same: npt.NDArray[np.int64] = np.sign(first) * np.minimum(np.abs(first), np.abs(second))
    return np.where(np.sign(first) == np.sign(second), same, 0)


def drift(counted: npt.NDArray[np.int64], before: Loads, after: Loads) -> npt.NDArray[np.int64]:
    """Return what to add to each backend's active sessions, by a count that was made between two readings. Pure.

    0 where the sessions that began and ended meanwhile explain the difference.
    """
    (active, chosen), (active_before, chosen_before) = after.astype(np.int64).T, before.astype(np.int64).T
    began = chosen - chosen_before
    ended = began - (active - active_before)
    difference = counted - active
    return np.where(np.abs(difference) > began + np.abs(ended), difference, 0)
