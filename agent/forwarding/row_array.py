# SPDX-License-Identifier: Apache-2.0
"""The rows of a service as the kernel has them: node indexes, uint16 of shape (rows, CHAIN), 0 after the end. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.table.claims import PLACES, Claimants
from agent.table.table import RowNumbers, Table
from bpf.layout.limits import CHAIN

RowArray = NDArray[np.uint16]


def rows_of(table: Table, claimants: Claimants | None, indexes: Sequence[int], count: int) -> RowArray:
    """Return the kernel's rows of a table, each with its claimants after its chain. `indexes` are the members'.

    A table with fewer rows is repeated: the low bits of a flow's hash are its row in both.
    """
    of_place = np.array([*indexes, 0], np.uint16)  # place -1 is the last entry: no node
    rows = np.zeros((len(table.places), CHAIN), np.uint16)
    rows[:, : table.places.shape[1]] = of_place[table.places]
    if claimants is not None and len(claimants.rows):
        rows[claimants.rows, table.width : table.width + claimants.places.shape[1]] = of_place[claimants.places]
    return np.tile(rows, (count // len(rows), 1)) if len(rows) < count else rows


def differing(rows: RowArray, before: RowArray) -> NDArray[np.bool_]:
    """Return which rows differ. Four places are compared as one number, in a twentieth of the time."""
    now, then = np.ascontiguousarray(rows).view(np.uint64), np.ascontiguousarray(before).view(np.uint64)
    found: NDArray[np.bool_] = now[:, 0] != then[:, 0]
    for column in range(1, now.shape[1]):
        found |= now[:, column] != then[:, column]
    return found


def claims_in(rows: RowArray, chain: int, count: int) -> dict[int, RowNumbers]:
    """Return the rows in which each node is a claimant, by its index. `chain` and `count` are the places and the rows
    of the table that they were made of."""
    claimed = rows[:count, chain:PLACES]
    row, _ = np.nonzero(claimed)
    index = claimed[claimed != 0]
    return {int(node): row[index == node].astype(np.uint32) for node in np.unique(index)}
