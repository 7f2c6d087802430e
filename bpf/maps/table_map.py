# SPDX-License-Identifier: Apache-2.0
"""The services' tables, one in each bank: rows, and the deadlines of their grace.

A table is written into a map of its own, then swapped in at once; services whose tables are equal share that map.
"""

import contextlib
import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bpf.kernel import bpf_map
from bpf.layout.limits import CHAIN, SLOTS
from bpf.maps.pinned_map import PinnedMap, pack_index

Rows = npt.NDArray[np.uint16]
"""Shape (R, CHAIN): indexes into the node table, owner first, 0 after the last."""
Deadlines = npt.NDArray[np.uint64]
"""Shape (R,): until when a miss of the row is dropped, in ns of CLOCK_MONOTONIC; 0 for no longer."""
Fill = Callable[[npt.NDArray[Any]], None]
"""Writes the contents of a table to its memory, which is all zeros before: a copy of a table is 256 page faults."""

_THREADS = 64
_POLL_S = 0.0002


def batch_waits_once() -> bool:
    """Whether a batch of updates waits for readers once; before Linux 6.8 it waited after each of its entries."""
    major, minor = (int("".join(c for c in part if c.isdigit()) or 0) for part in os.uname().release.split(".")[:2])
    return (major, minor) >= (6, 8)


@dataclass(frozen=True, slots=True)
class Swap:
    """New contents of the tables of some services in one bank: services with equal tables share one map.

    The contents are made when they are written: those of many services are not in memory at the same time. `rows`
    None: only the deadlines change.
    """

    slots: tuple[int, ...]
    grace: Fill
    rows: Fill | None = None
    bank: int = 0

    def indexes(self) -> list[int]:
        """Return where the tables are in the outer maps."""
        return [_index(slot, self.bank) for slot in self.slots]


class TableMap:
    """The tables by slot and bank (0 or 1), each of `row_count` rows. Reading back requires CAP_SYS_ADMIN."""

    def __init__(self, rows: PinnedMap, grace: PinnedMap, row_count: int) -> None:
        self.row_count = row_count
        self._rows = _OuterMap(rows, (row_count, CHAIN), np.dtype(np.uint16))
        self._grace = _OuterMap(grace, (row_count,), np.dtype(np.uint64))

    def swap(self, slot: int, rows: Rows, grace_until_ns: Deadlines, bank: int = 0) -> None:
        """Replace one service's table in a bank, as `swap_all` does."""
        self.swap_all([Swap((slot,), _copy_of("grace", grace_until_ns), _copy_of("rows", rows), bank)])

    def swap_all(self, swaps: Iterable[Swap]) -> None:
        """Replace tables, each with all of its rows at once, and all of them in one wait for readers of the old ones.

        The deadlines come first, so that a new row never lacks its grace. The kernel shows a map to programs before it
        waits for readers of the one before: both waits go on at the same time.
        """
        swaps = list(swaps)
        with contextlib.ExitStack() as stack:
            grace = stack.enter_context(self._grace.filled([(one.indexes(), one.grace) for one in swaps]))
            with_rows = [(one.indexes(), one.rows) for one in swaps if one.rows is not None]
            rows = stack.enter_context(self._rows.filled(with_rows))
            pool = stack.enter_context(ThreadPoolExecutor(1))
            waiting = pool.submit(self._grace.put, grace)
            while not (waiting.done() or self._grace.shows(grace)):
                time.sleep(_POLL_S)
            if waiting.done():
                waiting.result()
            self._rows.put(rows)
            waiting.result()

    def drop(self, slot: int, bank: int) -> None:
        """Free a table's memory, if it is there; the program must not use the bank any more."""
        for outer in (self._rows, self._grace):
            outer.drop(_index(slot, bank))

    def missing(self, slot: int, bank: int) -> list[str]:
        """Return which of "rows" and "grace" a table lacks."""
        outer = {"rows": self._rows, "grace": self._grace}
        return [name for name, tables in outer.items() if not tables.has(_index(slot, bank))]

    def rows(self, slot: int, bank: int = 0) -> Rows | None:
        """Read the rows back; None if there is no table."""
        return self._rows.read(_index(slot, bank))

    def grace(self, slot: int, bank: int = 0) -> Deadlines | None:
        """Read the deadlines back; None if there is no table."""
        return self._grace.read(_index(slot, bank))


class _OuterMap:
    """An array of maps, each an array of the same shape."""

    def __init__(self, outer: PinnedMap, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._outer = outer
        self._shape = shape
        self._dtype = dtype
        self._size = int(np.prod(shape)) * dtype.itemsize

    def has(self, index: int) -> bool:
        return self._outer.lookup(pack_index(index)) is not None

    @contextlib.contextmanager
    def filled(self, contents: Iterable[tuple[Sequence[int], Fill]]) -> Iterator[list[tuple[int, int]]]:
        """Make an inner map for each of `contents`; yield (index, fd) for all of its indexes."""
        inner = self._outer.spec.inner
        assert inner
        made: list[int] = []
        entries: list[tuple[int, int]] = []
        try:
            for indexes, fill in contents:
                fd = bpf_map.create_map(inner)
                made.append(fd)
                # Through the map's memory: 65,536 rows in 1 ms, a quarter of a batch update.
                fill(np.frombuffer(mmap.mmap(fd, self._size), self._dtype).reshape(self._shape))
                entries += [(index, fd) for index in indexes]
            yield entries
        finally:
            for fd in made:
                os.close(fd)  # the outer map keeps it

    def shows(self, entries: Iterable[tuple[int, int]]) -> bool:
        """Return whether programs read these inner maps already."""
        ids = {fd: bpf_map.map_id(fd) for _, fd in entries}
        return all(self._outer.lookup(pack_index(index)) == pack_index(ids[fd]) for index, fd in entries)

    def put(self, entries: Sequence[tuple[int, int]]) -> None:
        """Write the entries. Each write waits until no CPU reads the old inner map, some 15 ms; a batch waits once."""
        keys = [pack_index(index) for index, _ in entries]
        values = [pack_index(fd) for _, fd in entries]
        if len(entries) < 2:
            for key, value in zip(keys, values, strict=True):
                self._outer.update(key, value)
        elif batch_waits_once():
            self._outer.update_batch(keys, values)
        else:
            with ThreadPoolExecutor(min(len(entries), _THREADS)) as pool:
                list(pool.map(self._outer.update, keys, values))

    def drop(self, index: int) -> None:
        # Looked up first: even deleting nothing may wait until no CPU runs a program (Linux 6.1).
        if self.has(index):
            self._outer.delete(pack_index(index))

    def read(self, index: int) -> npt.NDArray[Any] | None:
        number = self._outer.lookup(pack_index(index))
        if number is None:
            return None
        fd = bpf_map.open_map(int.from_bytes(number, "little"))
        try:
            with mmap.mmap(fd, self._size, prot=mmap.PROT_READ) as memory:
                return np.frombuffer(memory.read(), self._dtype).reshape(self._shape)
        finally:
            os.close(fd)


def _index(slot: int, bank: int) -> int:
    return slot + bank * SLOTS


def _copy_of(name: str, values: npt.NDArray[Any]) -> Fill:
    def fill(memory: npt.NDArray[Any]) -> None:
        if values.shape != memory.shape or values.dtype != memory.dtype:
            given, wanted = f"{values.dtype}{values.shape}", f"{memory.dtype}{memory.shape}"
            raise ValueError(f"{name}: {given} given, {wanted} wanted")
        memory[:] = values

    return fill
