# SPDX-License-Identifier: Apache-2.0
"""The table algorithms that this release knows, by version: a table of another version belongs to another epoch.

Owns what they share: lost members have no places in a table, but the rows in which they would have one are kept. A node
that has joined since a member was lost has never known it; the places of all others must be the same to it.

A release that changes the rows that rendezvous.py or maglev.py make from the same members keeps the old algorithm too,
here and in `epoch.TABLE_VERSIONS` and `CHANGED_IN`, as long as a cluster may contain a release that knows only the old
one. A version that changes one hash alone is no other epoch for nodes that have no service of that hash (`since`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from agent.model import Candidate, State
from agent.table import maglev, rendezvous
from agent.table.epoch import since
from agent.table.table import RowNumbers, Table

Build = Callable[[Sequence[Candidate], int, int, Table | None], Table]
"""From candidates, rows, places in a chain, and any earlier table that saves work, to a table."""


def _maglev_1(candidates: Sequence[Candidate], rows: int, chain: int, _: Table | None) -> Table:
    return maglev.build(candidates, rows, chain)


def _maglev_2(candidates: Sequence[Candidate], rows: int, chain: int, _: Table | None) -> Table:
    return maglev.build(candidates, rows, chain, rows // maglev.UNFILLED)


ALGORITHMS: Final[dict[str, dict[int, Build]]] = {
    "rendezvous": {1: rendezvous.build},
    "maglev": {1: _maglev_1, 2: _maglev_2},
}
"""By a service's `hash`, then by the first version that has it (`epoch.CHANGED_IN`)."""


def build(
    version: int, hash_name: str, candidates: Sequence[Candidate], rows: int, chain: int, before: Table | None = None
) -> Table:
    """Return the table of these candidates, by a version's algorithm for a service's `hash`.

    Lost members have places only if all are lost.
    """
    build_all = ALGORITHMS[hash_name][since(version, hash_name)]
    living = [one for one in candidates if one.state is not State.LOST]
    if not living or len(living) == len(candidates):
        return build_all(candidates, rows, chain, before)
    table, whole = build_all(living, rows, chain, before), build_all(candidates, rows, chain, before)
    numbers = {member: number for number, member in enumerate(whole.members)}
    of_living = np.array([*(numbers[member] for member in table.members), -1], np.int16)  # place -1 is the last entry
    gone = {one.address for one in candidates} - {one.address for one in living}
    lost = {member: _rows_of(whole, numbers[member]) for member in sorted(gone)}
    return Table(whole.members, of_living[table.places], table.ranking, table.effective, lost)


def _rows_of(table: Table, number: int) -> RowNumbers:
    named: RowNumbers = np.flatnonzero((table.places == number).any(axis=1)).astype(np.uint32)
    return named
