# SPDX-License-Identifier: Apache-2.0
"""Reading sessions out of the slots, a part of them at a time: the program goes on, and so does the event loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from agent.sessions.page import Names, encode, rows_of, sessions
from agent.sessions.selection import Records, Selection
from agent.sessions.session_table import SessionTable
from agent.sessions.tag_array import LIVE, Slots, Tags, are_ipv6, are_live, same_session, states_of
from bpf.layout.nat import NAT_ROWS
from bpf.layout.session import WAYS
from bpf.maps.session_map import now_tick

PART: Final = 1 << 12
"""Slots that are read in one go: half a millisecond."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Sessions of one IP version."""

    version: int
    slots: Slots
    tags: Tags
    records: Records

    def __len__(self) -> int:
        return len(self.slots)

    def first(self, count: int) -> Found:
        """Return so many of them at most."""
        return Found(self.version, self.slots[:count], self.tags[:count], self.records[:count])

    def page(self, now: int) -> bytes:
        """Return them as the line of a page; `now` is a tick."""
        return encode(self.version, now, rows_of(self.version, self.slots, self.tags, self.records))

    def describe(self, now: int, names: Names) -> dict[str, Any]:
        """Return the first of them as `lbctl -o json` prints it."""
        rows = rows_of(self.version, self.slots[:1], self.tags[:1], self.records[:1])
        return next(sessions(self.version, now, rows, names))


def find(table: SessionTable, selection: Selection, start: int, count: int = PART) -> Iterator[Found]:
    """Yield the selected sessions in a range of slots, those of each IP version together.

    A record counts only if its slot had the same session before and after it was copied.
    """
    tags = table.tags[start : start + count].copy()
    wanted = np.isin(states_of(tags), selection.states)
    for version, all_records in table.records.items():
        places = np.flatnonzero(wanted & (are_ipv6(tags) == (version == 6)))
        records = all_records[start + places]
        chosen = selection.matches(records, version) & same_session(tags[places], table.tags[start + places])
        if chosen.any():
            yield Found(version, start + places[chosen], tags[places][chosen], records[chosen])


def read_pages(
    table: SessionTable, selection: Selection, start: int, limit: int | None, now: int
) -> tuple[list[bytes], int]:
    """Return the selected sessions of a part of the slots as pages, and how many they are: `limit` at most."""
    pages, count = [], 0
    for found in find(table, selection, start):
        part = found if limit is None else found.first(limit - count)
        if len(part):
            pages.append(part.page(now))
            count += len(part)
    return pages, count


def close_selected(table: SessionTable, selection: Selection) -> int:
    """Close the selected sessions; return how many they were. For a thread: it reads all slots."""
    parts = (found for start in range(0, len(table.tags), PART) for found in find(table, selection, start))
    return sum(table.close(found.slots, found.tags, now_tick()) for found in parts)


def count_live(table: SessionTable, chosen: Collection[Selection] = ()) -> int:
    """Return how many sessions there are now, of all, or those of these selections, which exclude each other. For a
    thread: it may read all records."""
    if chosen:
        starts = range(0, len(table.tags), PART)
        return sum(len(found) for one in chosen for start in starts for found in find(table, one, start))
    return sum(int(np.count_nonzero(are_live(table.tags[at : at + PART]))) for at in range(0, len(table.tags), PART))


def count_live_by_service(table: SessionTable) -> dict[int, int]:
    """Return how many sessions there are now, by their service's slot. For a thread: it reads all records."""
    counts: Counter[int] = Counter()
    for start in range(0, len(table.tags), PART):
        for found in find(table, Selection(LIVE), start):
            slots, sessions = np.unique(found.records["service_slot"], return_counts=True)
            counts.update(dict(zip(slots.tolist(), sessions.tolist(), strict=True)))
    return dict(counts)


def find_one(table: SessionTable, selection: Selection, ranges: Iterable[range]) -> Found | None:
    """Return the first selected session in any of these ranges of slots; None if there is none."""
    for slots in ranges:
        for found in find(table, selection, slots.start, len(slots)):
            return found
    return None


def slots_of_rows(table: SessionTable, rows: Iterable[int]) -> Iterator[range]:
    """Yield the slots of these NAT rows."""
    for row in rows:
        for start in range(row * WAYS, len(table.tags), NAT_ROWS * WAYS):
            yield range(start, start + WAYS)
