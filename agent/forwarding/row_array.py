# SPDX-License-Identifier: Apache-2.0
"""The rows of a service as the kernel has them: node indexes, uint16 of shape (rows, CHAIN), 0 after the end. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agent.table.claims import FIRST, PLACES, Claimants
from agent.table.table import RowNumbers, Table
from bpf.layout.limits import CHAIN

RowArray = NDArray[np.uint16]


@dataclass(frozen=True, slots=True, eq=False)
class ServiceRows:
    """The rows of a service, made when they are needed: services with different claims share the table's rows, which
    are a megabyte."""

    of_table: RowArray
    """The rows without claimants, shape (rows of the table, CHAIN)."""
    count: int
    """The kernel's number of rows. A table with fewer is repeated: the low bits of a hash are its row in both."""
    claimed: RowNumbers = field(default_factory=lambda: np.zeros(0, np.uint32))
    places: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    """What differs from the rows of the table: the place in each of these rows."""
    nodes: NDArray[np.uint16] = field(default_factory=lambda: np.zeros(0, np.uint16))
    """The index of the node there."""

    def array(self) -> RowArray:
        """Return all rows, shape (count, CHAIN); it must not be written to."""
        if not len(self.claimed) and len(self.of_table) == self.count:
            return self.of_table
        rows = np.empty((self.count, CHAIN), np.uint16)
        self.fill(rows)
        return rows

    def fill(self, rows: RowArray) -> None:
        """Write all rows to an array of that shape."""
        size = len(self.of_table)
        rows[:size] = self.of_table
        rows[self.claimed, self.places] = self.nodes
        rows.reshape(-1, size, CHAIN)[1:] = rows[:size]

    def differs_from(self, before: ServiceRows, touched: NDArray[np.intp] | None = None) -> NDArray[np.bool_]:
        """Return which rows differ: if these are of the same table, `touched` (see `Claimants`)."""
        if touched is None or self.of_table is not before.of_table:
            return differing(self.array(), before.array())
        found = np.zeros(len(self.of_table), np.bool_)
        found[touched] = True
        return np.tile(found, self.count // len(found))


def chains_of(table: Table, indexes: Sequence[int]) -> RowArray:
    """Return the rows of a table as the kernel has them, without claimants. `indexes` are the members'."""
    of_place = np.array([*indexes, 0], np.uint16)  # place -1 is the last entry: no node
    rows = np.zeros((len(table.places), CHAIN), np.uint16)
    rows[:, : table.places.shape[1]] = of_place[table.places]
    return rows


def rows_of(
    table: Table, claimants: Claimants | None, indexes: Sequence[int], count: int, of_table: RowArray | None = None
) -> ServiceRows:
    """Return the kernel's rows of a table, each with its claimants after its chain. `indexes` are the members',
    `of_table` the result of `chains_of` if there is one already."""
    of_table = chains_of(table, indexes) if of_table is None else of_table
    if claimants is None:
        return ServiceRows(of_table, count)
    claimed, places, members = claimants.placed
    return ServiceRows(of_table, count, claimed, places, np.array(indexes, np.uint16)[members])


def differing(rows: RowArray, before: RowArray) -> NDArray[np.bool_]:
    """Return which rows differ. Four places are compared as one number, in a twentieth of the time."""
    now, then = np.ascontiguousarray(rows).view(np.uint64), np.ascontiguousarray(before).view(np.uint64)
    found: NDArray[np.bool_] = now[:, 0] != then[:, 0]
    for column in range(1, now.shape[1]):
        found |= now[:, column] != then[:, column]
    return found


def claims_in(rows: RowArray, chain: int, count: int) -> dict[int, RowNumbers]:
    """Return the rows in which each node is a claimant, by its index. `chain` and `count` are the places and the rows
    of the table that they were made of. In a full row, claimants may have places of the chain."""
    claimed = rows[:count, min(FIRST, chain) : PLACES].copy()
    claimed[rows[:count, PLACES - 1] == 0, : max(0, chain - FIRST)] = 0
    row, _ = np.nonzero(claimed)
    index = claimed[claimed != 0]
    return {int(node): row[index == node].astype(np.uint32) for node in np.unique(index)}
