# SPDX-License-Identifier: Apache-2.0
"""The tables of the services: each is built once for all services of the same members, and faster from an earlier one.

Pure; epoch_bank.py writes them into the kernel. Building one takes long: it is done in a thread, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from agent.forwarding.row_array import RowArray, chains_of
from agent.model import Candidate
from agent.table import algorithm
from agent.table.epoch import Epoch, since
from agent.table.table import Table

RANKINGS_KEPT = 16
"""The rankings that are kept, so that the next table is built faster: 4.5 MB each (65,536 rows)."""

Members = tuple[Candidate, ...]
_Key = tuple[int, int, int, str, int]
"""All inputs of a table: version, rows, chain, the service's hash, the id of its members."""


@dataclass(frozen=True, slots=True, eq=False)
class SharedTable:
    """A table, and its rows for the kernel without claimants: services with the same members share them."""

    members: Members
    table: Table
    indexes: Sequence[int]
    """The members' indexes in the node table."""
    chains: RowArray


class TableCache:
    """The tables of the members that services have now."""

    def __init__(self) -> None:
        self.shared: dict[_Key, SharedTable] = {}
        self._indexes: Mapping[IPv4Address, int] = {}

    def retain(self, used: Iterable[Members], indexes: Mapping[IPv4Address, int]) -> None:
        """Forget the tables of all others than these members: the same objects, not equal ones. From now on `indexes`
        are the nodes'."""
        kept, self._indexes = {id(members) for members in used}, indexes
        self.shared = {key: self._indexed(one) for key, one in self.shared.items() if id(one.members) in kept}

    def _indexed(self, shared: SharedTable) -> SharedTable:
        numbers = self._numbers(shared.table)
        same = shared.indexes == numbers
        return shared if same else replace(shared, indexes=numbers, chains=chains_of(shared.table, numbers))

    def _numbers(self, table: Table) -> list[int]:
        return [self._indexes[address] for address in table.members]

    def table(self, epoch: Epoch, kind: str, members: Members, before: Table | None) -> SharedTable:
        """Return the table of an epoch for a service's hash and members; `before` is one that it had."""
        key = since(epoch.version, kind), epoch.rows, epoch.chain, kind, id(members)
        known = self.shared.get(key)
        if known is None:
            table = _with_few_rankings(self._build(key, members, before), (one.table for one in self.shared.values()))
            numbers = self._numbers(table)
            known = self.shared[key] = SharedTable(members, table, numbers, chains_of(table, numbers))
        return known

    def _build(self, wanted: _Key, members: Members, before: Table | None) -> Table:
        version, rows, chain, kind, _ = wanted
        # Services differ in their members' states more often than in their members: one ranking serves them all.
        weights = {c.address.packed: c.weight for c in members}
        alike = (one.table for known, one in self.shared.items() if known[:3] == wanted[:3])
        same = (table for table in alike if table.ranking is not None and table.ranking.ranks(weights))
        return algorithm.build(version, kind, members, rows, chain, next(same, before))


def _with_few_rankings(table: Table, others: Iterable[Table]) -> Table:
    """Return a table without its rankings, if with those of the others they are more than `RANKINGS_KEPT`."""
    rankings = {id(one) for table in (table, *others) for one in (table.ranking, table.effective) if one is not None}
    return table if len(rankings) <= RANKINGS_KEPT else replace(table, ranking=None, effective=None)
