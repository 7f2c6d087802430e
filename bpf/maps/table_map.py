# SPDX-License-Identifier: Apache-2.0
"""The services' tables, one in each bank: rows, and the deadlines of their grace.

A table is written into a map of its own, then swapped in at once.
"""

import mmap
import os
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


class TableMap:
    """The tables by slot and bank (0 or 1), each of `row_count` rows. Reading back requires CAP_SYS_ADMIN."""

    def __init__(self, rows: PinnedMap, grace: PinnedMap, row_count: int) -> None:
        self.row_count = row_count
        self._rows = _OuterMap(rows, (row_count, CHAIN), np.dtype(np.uint16))
        self._grace = _OuterMap(grace, (row_count,), np.dtype(np.uint64))

    def swap(self, slot: int, rows: Rows, grace_until_ns: Deadlines, bank: int = 0) -> None:
        """Replace a service's table in a bank: all of its rows at once.

        The deadlines come first, so that a new row never lacks its grace.
        """
        self.set_grace(slot, grace_until_ns, bank)
        self._rows.swap(_index(slot, bank), rows)

    def set_grace(self, slot: int, until_ns: Deadlines, bank: int = 0) -> None:
        """Replace the deadlines alone."""
        self._grace.swap(_index(slot, bank), until_ns)

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

    def has(self, index: int) -> bool:
        return self._outer.lookup(pack_index(index)) is not None

    def swap(self, index: int, values: npt.NDArray[Any]) -> None:
        if values.shape != self._shape or values.dtype != self._dtype:
            given, wanted = f"{values.dtype}{values.shape}", f"{self._dtype}{self._shape}"
            raise ValueError(f"{self._outer.spec.name}: {given} given, {wanted} wanted")
        inner = self._outer.spec.inner
        assert inner
        fd = bpf_map.create_map(inner)
        try:
            _write(fd, values)
            self._outer.set_entry(index, pack_index(fd))
        finally:
            os.close(fd)  # the outer map keeps it

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
            size = int(np.prod(self._shape)) * self._dtype.itemsize
            with mmap.mmap(fd, size, prot=mmap.PROT_READ) as memory:
                return np.frombuffer(memory.read(), self._dtype).reshape(self._shape)
        finally:
            os.close(fd)


def _index(slot: int, bank: int) -> int:
    return slot + bank * SLOTS


def _write(fd: int, values: npt.NDArray[Any]) -> None:
    """Fill an array map through its memory: 65,536 rows in 1 ms, a quarter of a batch update."""
    with mmap.mmap(fd, values.nbytes) as memory:
        memory.write(np.ascontiguousarray(values).tobytes())
