# SPDX-License-Identifier: Apache-2.0
"""Claims: the nodes that hold connections of a row whose chain does not name them, and their places after it. Pure.

A chain of 4 forgets owners while a cluster grows. So a node that holds connections in such a row claims the row, each
node knows the claims of all, and appends a row's claimants to its chain.

1. The order is that of nominal rank, as in the chain, not of arrival: nodes that learn of claims one after the other
   never disagree about which of two nodes comes first. Both hashes use rendezvous' costs.
2. A row has room for `PLACES` nodes. The best claimants have it: among those that joins have pushed out of the chain
   they are the last ones, whose connections are the youngest. Rows that have more claimants are counted.
3. What is ranked is bounded (`RANKED_PER_ROW`), by a rule of the claims alone: equal claims give equal rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.model import Candidate
from agent.table.cost import hashes, mix, rank_keys, row_factors, seed
from agent.table.table import Places, RowNumbers, Table

PLACES: Final = 7
"""Of a row with its claimants: the walk may not reach the last of 8."""

RANKED_PER_ROW: Final = 16
"""Claims that are ranked, on average of all rows. Of more than that (each node claims the rows of all its connections
after the key of the flow hash has changed) those with low hashes, which would hardly have a place, are left out: with
1,000 nodes that claim 10,000 rows each, ranking all takes seconds for each service."""

NAMED_S: Final = 300.0
"""To twice that: a node that crashed is back by then, or its place is another's."""
NO_ROWS: Final[RowNumbers] = np.zeros(0, np.uint32)

Claims = Mapping[IPv4Address, RowNumbers]
"""The rows of a service that each node claims, in one epoch."""


@dataclass(frozen=True, slots=True, eq=False)
class Claimants:
    """The claimants of the rows that have some."""

    rows: RowNumbers
    """Each once, in no order."""
    places: Places
    """By row, `places[i]` are indexes into the table's members, in their order, -1 after the last."""
    counts: NDArray[np.int64]
    """By row, how many nodes claim it."""
    full: int
    """The number of rows that have no place for another claimant; none if there are no more members than places."""
    nearly_full: int
    """The number of those that have one."""
    overfull: int
    """The number of rows that have more claimants than places."""
    source: tuple[Table, Claims, int] | None = None
    """The table, the claims and the places that they were made from; None if not all claims were ranked."""

    def changed(self, table: Table, claims: Claims, places: int) -> NDArray[np.bool_] | None:
        """Return which rows may have other claimants with these claims, of which equal objects are the same; None if
        any row may."""
        if self.source is None or self.source[0] is not table or self.source[2] != places:
            return None
        before, found = self.source[1], np.zeros(len(table.places), np.bool_)
        for address in claims.keys() | before.keys():
            one, other = claims.get(address, NO_ROWS), before.get(address, NO_ROWS)
            if one is not other:
                for rows in (one, other):
                    found[rows[rows < len(found)]] = True
        return found


class OwnClaims:
    """What this node claims of a service in one epoch, from count to count of its connections.

    1. It claims each row in which it holds connections, and whose chain does not name it.
    2. The kernel goes through its sockets while others come and go, and may miss one: a row counts as empty only when
       two counts in a row have found no connection.
    3. A claim stands for `NAMED_S` after the chain names the node again, without effect. So when a node is away for a
       minute, other nodes' claims are there when it comes back and displaces them, even if agents die just then.
    """

    def __init__(self, adopted: RowNumbers = NO_ROWS) -> None:
        """Start with the claims that an earlier agent left in the kernel's rows."""
        self.rows = adopted
        """What it claims: the same object until it claims something else."""
        self._seen = self._recent = adopted
        self._older, self._turned_at = NO_ROWS, float("-inf")

    def count(self, held: RowNumbers, unnamed: Callable[[RowNumbers], RowNumbers | None], now: float) -> None:
        """Take a count. `held`: the rows in which it found connections; `unnamed`: see `claims_of`, None without a
        table; `now` in seconds."""
        holding = np.union1d(held, self._seen)
        needed = unnamed(holding)
        if needed is None:
            return
        if now >= self._turned_at + NAMED_S:
            self._older, self._recent, self._turned_at = self._recent, NO_ROWS, now
        self._recent = np.union1d(self._recent, needed)
        rows = np.intersect1d(np.union1d(self._recent, self._older), holding, assume_unique=True)
        self._seen = np.intersect1d(rows, held, assume_unique=True)
        if not np.array_equal(rows, self.rows):
            self.rows = rows


def claims_of(held: RowNumbers, chains: NDArray[np.integer[Any]], own: int) -> RowNumbers:
    """Return the rows that a node claims: those in which it holds connections, and whose chain does not name it.

    `chains` are those of all rows, without claimants; `own` is the number by which they name the node.
    """
    claimed: RowNumbers = held[~(chains[held] == own).any(axis=1)]
    return claimed


def claimants(
    table: Table,
    candidates: Sequence[Candidate],
    claims: Claims,
    places: int = PLACES,
    before: Claimants | None = None,
) -> Claimants:
    """Return the claimants of a table's rows, for a chain of at most so many places with them.

    `candidates` are those that the table was built from; claims of other nodes do not count. Lost members claim the
    rows in which they would have a place. If the claimants `before` are of the same table, only rows whose claims have
    changed since are ranked.
    """
    rows, room = len(table.places), max(0, places - table.width)
    row, member, all_are_ranked = _claimed(table, claims)
    changed = before.changed(table, claims, places) if before is not None and all_are_ranked else None
    if changed is not None:
        chosen = changed[row]
        row, member = row[chosen], member[chosen]
    counts = ~(table.places[row] == member[:, None]).any(axis=1)
    row, member = row[counts], member[counts]
    weights = {c.address: c.weight for c in candidates}
    seeds = np.array([seed(one.packed) for one in table.members], np.uint64)
    nominal = np.array([weights[one] for one in table.members], np.uint64)
    hashed = hashes(mix(row_factors(rows)[row] ^ seeds[member]))
    order = np.lexsort((rank_keys(hashed, nominal[member], member.astype(np.uint64)), row))
    row, member = row[order], member[order]
    distinct, start, many = np.unique(row, return_index=True, return_counts=True)
    nth = np.arange(len(row)) - np.repeat(start, many)
    found = np.full((len(distinct), room), -1, np.int16)
    fits = nth < room
    found[np.repeat(np.arange(len(distinct)), many)[fits], nth[fits]] = member[fits]
    if changed is not None and before is not None:
        same = ~changed[before.rows]
        distinct = np.concatenate([before.rows[same], distinct])
        found = np.concatenate([before.places[same], found])
        many = np.concatenate([before.counts[same], many])
    full = nearly_full = 0
    if len(table.members) > places:
        full, nearly_full = int((many >= room).sum()), int((many == room - 1).sum())
    source = (table, claims, places) if all_are_ranked else None
    return Claimants(distinct, found, many, full, nearly_full, int((many > room).sum()), source)


def _claimed(table: Table, claims: Claims) -> tuple[RowNumbers, NDArray[np.int16], bool]:
    """Return rows and the members that claim them (indexes into the table's), and whether these are all claims."""
    if table.lost:
        claims = {one: _union(claims.get(one), table.lost.get(one)) for one in {*claims, *table.lost}}
    rows = len(table.places)
    numbers = [i for i, member in enumerate(table.members) if len(claims.get(member, ()))]
    lists = [claims[table.members[i]] for i in numbers]
    halvings = (sum(map(len, lists)) // (RANKED_PER_ROW * rows)).bit_length()
    if halvings:
        lists = [
            _with_high_hashes(one, table.members[i], rows, halvings) for i, one in zip(numbers, lists, strict=True)
        ]
    row = np.concatenate([*lists, NO_ROWS]).astype(np.uint32)
    member = np.repeat(np.array(numbers, np.int16), [len(one) for one in lists])
    exist = row < rows  # a damaged or foreign list
    return row[exist], member[exist], not halvings


def _union(one: RowNumbers | None, other: RowNumbers | None) -> RowNumbers:
    given = [rows for rows in (one, other) if rows is not None]
    return given[0] if len(given) == 1 else np.union1d(*given)


def _with_high_hashes(claimed: RowNumbers, member: IPv4Address, rows: int, halvings: int) -> RowNumbers:
    """Return the rows in which a member's hash is high: of each `2 ** halvings` about one."""
    claimed = claimed[claimed < rows]
    hashed = hashes(mix(row_factors(rows)[claimed] ^ np.uint64(seed(member.packed))))
    kept: RowNumbers = claimed[hashed >= np.uint64((1 << 32) - (1 << 32 >> halvings))]
    return kept
