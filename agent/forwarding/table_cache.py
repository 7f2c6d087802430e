# SPDX-License-Identifier: Apache-2.0
"""The tables of the services: each is built once for all services of the same members, and faster from an earlier one.

Pure; epoch_bank.py writes them into the kernel. Building one takes long: it is done in a thread, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from agent.model import Candidate
from agent.table import algorithm
from agent.table.epoch import Epoch
from agent.table.table import Table

RANKINGS_KEPT = 16
"""The rankings that are kept, so that the next table is built faster: 4.5 MB each (65,536 rows)."""

Members = tuple[Candidate, ...]
_Key = tuple[int, int, int, str, Members]
"""All inputs of a table: version, rows, chain, the service's hash, its members."""


class TableCache:
    """The tables of the members that services have now."""

    def __init__(self) -> None:
        self.tables: dict[_Key, Table] = {}

    def retain(self, used: Iterable[Members]) -> None:
        """Forget the tables of all others than these members: the same objects, not equal ones."""
        kept = {id(members) for members in used}
        self.tables = {key: table for key, table in self.tables.items() if id(key[-1]) in kept}

    def table(self, epoch: Epoch, kind: str, members: Members, before: Table | None) -> Table:
        """Return the table of an epoch for a service's hash and members; `before` is one that it had."""
        key = epoch.version, epoch.rows, epoch.chain, kind, members
        found = self.tables.get(key)
        if found is None:
            found = self.tables[key] = _with_few_rankings(self._build(key, before), self.tables.values())
        return found

    def _build(self, wanted: _Key, before: Table | None) -> Table:
        version, rows, chain, kind, members = wanted
        # Services differ in their members' states more often than in their members: one ranking serves them all.
        weights = {c.address.packed: c.weight for c in members}
        alike = (table for known, table in self.tables.items() if known[:3] == wanted[:3])
        same = (table for table in alike if table.ranking is not None and table.ranking.ranks(weights))
        return algorithm.build(version, kind, members, rows, chain, next(same, before))


def _with_few_rankings(table: Table, others: Iterable[Table]) -> Table:
    """Return a table without its rankings, if with those of the others they are more than `RANKINGS_KEPT`."""
    rankings = {id(one) for table in (table, *others) for one in (table.ranking, table.effective) if one is not None}
    return table if len(rankings) <= RANKINGS_KEPT else replace(table, ranking=None, effective=None)
