# SPDX-License-Identifier: Apache-2.0
"""Which rows the nodes of the simulation of claims have: made once for all nodes that know the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from support.claim_node import Node, SharedRows

from agent.model import Candidate
from agent.table import algorithm
from agent.table.claims import Claimants, claimants
from agent.table.epoch import TABLE_VERSIONS
from agent.table.table import Table

CHAIN = 4
TABLE_ROWS = 65_536
"""A cluster has the first rows of a table of the usual size: a smaller one made by Maglev changes far more."""
MAX_TABLES = 64
MAX_ROWS = 256


class RowCache:
    """The tables and rows of all nodes of a cluster, by what they know (`known_key`, `claims_key`)."""

    def __init__(self, hash_name: str, rows: int) -> None:
        self._hash, self._rows = hash_name, rows
        self.full = 0
        """The most rows with more claimants than places, of any table."""
        self._tables: dict[int, Table] = {}
        self._claimants: dict[int, Claimants] = {}
        """The last ones of each table."""
        self._shared: dict[tuple[int, int], SharedRows] = {}
        self._changes: dict[tuple[SharedRows, SharedRows], NDArray[np.bool_]] = {}
        """Which rows differ."""
        self._last: Table | None = None

    def rows_of(self, node: Node) -> SharedRows:
        """Return the rows that follow from what a node knows."""
        key = (node.known_key, node.claims_key)
        if key not in self._shared:
            if len(self._shared) > MAX_ROWS:
                self._shared.clear()
                self._changes.clear()
            self._shared[key] = SharedRows(self._chains(node))
        return self._shared[key]

    def changed(self, before: SharedRows | None, rows: SharedRows) -> NDArray[np.bool_]:
        """Return which rows differ: all, if there were none before."""
        if before is None:
            return np.ones(self._rows, np.bool_)
        if (before, rows) not in self._changes:
            self._changes[before, rows] = (rows.chains != before.chains).any(axis=1)
        return self._changes[before, rows]

    def _table(self, node: Node, known: tuple[Candidate, ...]) -> Table:
        if node.known_key not in self._tables:
            before = self._last if self._last is not None and self._last.ranking else None
            self._last = self._build(known, before)
            if len(self._tables) > MAX_TABLES:
                self._tables.clear()
                self._claimants.clear()
            self._tables[node.known_key] = self._last
        return self._tables[node.known_key]

    def _build(self, known: tuple[Candidate, ...], before: Table | None) -> Table:
        if self._hash == "rendezvous":  # a row depends on no other
            return algorithm.build(TABLE_VERSIONS[-1], self._hash, known, self._rows, CHAIN, before)
        table = algorithm.build(TABLE_VERSIONS[-1], self._hash, known, TABLE_ROWS, CHAIN)
        lost = {one: rows[rows < self._rows] for one, rows in table.lost.items()}
        return Table(table.members, table.places[: self._rows], lost=lost)

    def _chains(self, node: Node) -> NDArray[np.int64]:
        known = tuple(sorted(node.known.values(), key=lambda one: int(one.address)))
        table = self._table(node, known)
        chains = np.zeros((self._rows, 8), np.int64)
        numbers = np.array([*map(int, table.members), 0], np.int64)
        chains[:, :CHAIN] = numbers[table.places]
        if node.claims or table.lost:
            claims = {one: rows for one, (_, rows) in node.claims.items()}
            found = claimants(table, known, claims, before=self._claimants.get(node.known_key))
            self._claimants[node.known_key] = found
            rows, places, members = found.placed
            chains[rows, places] = numbers[members]
            self.full = max(self.full, found.overfull)
        return chains
