# SPDX-License-Identifier: Apache-2.0
"""Claims: the nodes that hold connections of a row whose chain does not name them, and their places after it. Pure.

A chain of 4 forgets owners while a cluster grows. So a node that holds connections in such a row claims the row, each
node knows the claims of all, and appends a row's claimants to its chain.

1. The order is that of nominal rank, as in the chain, not of arrival: nodes that learn of claims one after the other
   never disagree about which of two nodes comes first. Both hashes use rendezvous' costs.
2. A row has room for `PLACES` nodes. With more claimants, the chain yields: its places after the first two, from the
   last on, but not those whose node claims the row too. So where a row has claimants, a node that the chain names there
   claims it as well if it holds connections and is not one of the first two.
3. If that is not enough, the best claimants have places: among those that joins have pushed out of the chain they are
   the last ones, whose connections are the youngest. Rows that have more claimants are counted.
4. What is ranked is bounded (`RANKED_PER_ROW`), by a rule of the claims alone: equal claims give equal rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any, Final, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from agent.model import Candidate
from agent.table.cost import MEMBER_BITS, Keys, hashes, mix, rank_keys, row_factors, seed
from agent.table.table import RowNumbers, Table

PLACES: Final = 8
"""Of a row with its claimants: as many as the kernel's rows have."""

FIRST: Final = 2
"""The places of a chain that yield to no claimant: the owner, and the owner before the last change."""

RANKED_PER_ROW: Final = 16
"""Claims that are ranked, on average of all rows. Of more than that (each node claims the rows of all its connections
after the key of the flow hash has changed) those with low hashes, which would hardly have a place, are left out: with
1,000 nodes that claim 10,000 rows each, ranking all takes seconds for each service."""

NAMED_S: Final = 300.0
"""To twice that: a node that crashed is back by then, or its place is another's."""
NO_ROWS: Final[RowNumbers] = np.zeros(0, np.uint32)

Claims = Mapping[IPv4Address, RowNumbers]
"""The rows of a service that each node claims, in one epoch."""

_Arrays = TypeVar("_Arrays", bound=tuple[NDArray[Any], ...])
_Ranked = tuple[RowNumbers, NDArray[np.int16], NDArray[np.bool_]]
_Placed = tuple[RowNumbers, NDArray[np.uint8], NDArray[np.int16]]


@dataclass(frozen=True, slots=True, eq=False)
class Claimants:
    """The claims that count, in equally long arrays, and what they make of the rows."""

    rows: RowNumbers
    """Of each claim; those of a row are in the order of their places."""
    members: NDArray[np.int16]
    """Who claims, as an index into the table's members."""
    named: NDArray[np.bool_]
    """Whether the row's chain names it; not if that is one of the `FIRST` places."""
    placed: _Placed
    """What differs from the table: rows, places, and the members there."""
    left: tuple[RowNumbers, NDArray[np.intp]]
    """Rows that have one place for another claimant, or none, and how many: below 0 if there are more claimants than
    places. There are no such rows if there are no more members than places."""
    source: _Source | None = None
    """What they were made from; None if not all claims were ranked."""
    touched: NDArray[np.intp] | None = None
    """The rows that differ from those of the claimants before, of the same table, ascending; None: any may."""

    @property
    def full(self) -> int:
        """The number of rows that have no place for another claimant."""
        return int((self.left[1] <= 0).sum())

    @property
    def nearly_full(self) -> int:
        """The number of those that have one."""
        return int((self.left[1] == 1).sum())

    @property
    def overfull(self) -> int:
        """The number of rows that have more claimants than places."""
        return int((self.left[1] < 0).sum())


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """The claims that claimants are made from, and what ranking needs of the table's members."""

    table: Table
    claims: Claims
    total: int
    """How many rows all members claim together."""
    numbers: Mapping[IPv4Address, int]
    seeds: Keys
    weights: Keys

    @staticmethod
    def of(table: Table, candidates: Sequence[Candidate], claims: Claims) -> _Source:
        weights = {c.address: c.weight for c in candidates}
        nominal = np.array([weights[one] for one in table.members], np.uint64)
        seeds = np.array([seed(one.packed) for one in table.members], np.uint64)
        source = _Source(table, claims, 0, {one: i for i, one in enumerate(table.members)}, seeds, nominal)
        return replace(source, total=sum(len(source.rows_of(one)) for one in source.numbers))

    def after(self, claims: Claims) -> tuple[_Source, list[IPv4Address]]:
        """Return the source with other claims, and the members whose claims are not the same objects any more."""
        before = self.claims
        if [*claims] == [*before]:  # as nearly always; no hash of an address is needed
            others = [
                one for one, now, then in zip(claims, claims.values(), before.values(), strict=True) if now is not then
            ]
        else:
            others = [one for one in claims.keys() | before.keys() if claims.get(one) is not before.get(one)]
        members = [one for one in others if one in self.numbers]
        source = replace(self, claims=claims)
        more = sum(len(source.rows_of(one)) - len(self.rows_of(one)) for one in members)
        return replace(source, total=self.total + more), members

    @property
    def halvings(self) -> int:
        """How often the rows that each member claims are halved before they are ranked."""
        return (self.total // (RANKED_PER_ROW * len(self.table.places))).bit_length()

    def rows_of(self, member: IPv4Address) -> RowNumbers:
        """Return the rows that a member claims; a lost one those in which it would have a place, too."""
        claimed = self.claims.get(member, NO_ROWS)
        lost = self.table.lost.get(member) if self.table.lost else None
        return claimed if lost is None else np.union1d(claimed, lost)

    def claimed_by(self, members: Iterable[IPv4Address]) -> tuple[RowNumbers, NDArray[np.int16]]:
        """Return the rows that these members claim, and which member each: all, or those that are to be ranked."""
        rows, halvings = len(self.table.places), self.halvings
        lists = [(self.numbers[one], found) for one in members if len(found := self.rows_of(one))]
        row = np.concatenate([NO_ROWS, *(found for _, found in lists)]).astype(np.uint32)
        member = np.repeat(np.array([number for number, _ in lists], np.int16), [len(found) for _, found in lists])
        chosen = row < rows  # a damaged or foreign list
        row, member = row[chosen], member[chosen]
        if halvings:
            high = self.hashed(row, member) >= np.uint64((1 << 32) - (1 << 32 >> halvings))
            row, member = row[high], member[high]
        return row, member

    def hashed(self, row: RowNumbers, member: NDArray[np.int16]) -> Keys:
        """Return the hash of each of these members in its row."""
        return hashes(mix(row_factors(len(self.table.places))[row] ^ self.seeds[member]))

    def ranked(self, row: RowNumbers, member: NDArray[np.int16]) -> _Ranked:
        """Return those of these claims that count, by row, then those that the chain names, then by nominal rank; and
        which the chain names."""
        places = self.table.places[row] == member[:, None]
        counts = ~places[:, :FIRST].any(axis=1)
        row, member, named = row[counts], member[counts], places[counts].any(axis=1)
        keys = rank_keys(self.hashed(row, member), self.weights[member], member.astype(np.uint64))
        order = np.lexsort((keys, ~named, row))
        return row[order], member[order], named[order]


class OwnClaims:
    """What this node claims of a service in one epoch, from count to count of its connections.

    1. It claims rows as `claims_of` has it.
    2. The kernel goes through its sockets while others come and go, and may miss one: a row counts as empty only when
       two counts in a row have found no connection.
    3. A claim stays for `NAMED_S` after the chain names the node again, without effect. So when a node is away for a
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


def claims_of(held: RowNumbers, rows: NDArray[np.integer[Any]], chain: int, own: int) -> RowNumbers:
    """Return the rows that a node claims: those in which it holds connections, and whose chain does not name it; where
    there are claimants, also if the chain names it after the `FIRST` places.

    `rows` are all rows with their claimants after `chain` places, 0 after the last; `own` is the node's number there.
    """
    places = rows[held] == own
    first, named = places[:, : min(FIRST, chain)].any(axis=1), places[:, :chain].any(axis=1)
    claimed: RowNumbers = held[~first & (~named | (rows[held, chain:] != 0).any(axis=1))]
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
    changed since are ranked: claims that are the same object have not.
    """
    if before is not None and before.source is not None and before.source.table is table:
        source, changed = before.source.after(claims)
        if not source.halvings:
            return _claimants_after(before, before.source, source, changed, places)
    source = _Source.of(table, candidates, claims)
    ranked = source.ranked(*source.claimed_by(table.members))
    return Claimants(*ranked, *_arranged(table, *ranked, places), None if source.halvings else source)


def _claimants_after(
    before: Claimants, known: _Source, source: _Source, changed: Sequence[IPv4Address], places: int
) -> Claimants:
    """Return claimants made from those before, from which the claims of some members differ."""
    one, other = known.claimed_by(changed), source.claimed_by(changed)
    moved = np.setxor1d(_codes(*one), _codes(*other), assume_unique=True) >> np.uint64(MEMBER_BITS)
    touched, was_changed = np.zeros(len(source.table.places), np.bool_), np.zeros(len(source.numbers), np.bool_)
    touched[moved] = True
    was_changed[[source.numbers[address] for address in changed]] = True
    at, placed_at, left_at = (np.flatnonzero(touched[of[0]]) for of in ((before.rows,), before.placed, before.left))
    row, member = before.rows[at], before.members[at]
    stay, new = ~was_changed[member], touched[other[0]]
    ranked = source.ranked(np.concatenate([row[stay], other[0][new]]), np.concatenate([member[stay], other[1][new]]))
    placed, left = _arranged(source.table, *ranked, places)
    rows, place, who = before.placed
    placed_before = rows[placed_at], place[placed_at], who[placed_at]
    differ = np.setxor1d(_place_codes(*placed_before), _place_codes(*placed), assume_unique=True)
    return Claimants(
        *_patched((before.rows, before.members, before.named), at, ranked),
        _patched(before.placed, placed_at, placed),
        _patched(before.left, left_at, left),
        source,
        np.unique((differ >> np.uint64(MEMBER_BITS)).astype(np.intp) // PLACES),
    )


def _patched(before: _Arrays, at: NDArray[np.intp], new: _Arrays) -> _Arrays:
    """Return equally long arrays with new elements in place of those at these positions, which may be more or fewer.
    Masks of whole arrays, and large arrays that are not kept, would take twice as long."""
    patched = []
    for old, one in zip(before, new, strict=True):
        whole = np.concatenate([old, one[len(at) :]])
        whole[at[: len(one)]] = one[: len(at)]
        patched.append(np.delete(whole, at[len(one) :]) if len(one) < len(at) else whole)
    return cast(_Arrays, tuple(patched))


def _codes(row: RowNumbers, member: NDArray[np.int16]) -> Keys:
    """Return one number for each claim."""
    codes: Keys = row.astype(np.uint64) << np.uint64(MEMBER_BITS) | member.astype(np.uint64)
    return codes


def _place_codes(row: RowNumbers, place: NDArray[np.uint8], member: NDArray[np.int16]) -> Keys:
    """Return one number for each place of a row and the member there."""
    return _codes(row * np.uint32(PLACES) + place, member)


def _arranged(
    table: Table, rows: RowNumbers, members: NDArray[np.int16], named: NDArray[np.bool_], places: int
) -> tuple[_Placed, tuple[RowNumbers, NDArray[np.intp]]]:
    """Return `Claimants.placed` and `left` for the claims that count, those of a row together and in their order."""
    width, room = table.width, places - table.width
    row, member = rows[~named], members[~named]
    starts = np.flatnonzero(np.concatenate([row[:1] == row[:1], row[1:] != row[:-1]]))
    many = np.diff(starts, append=len(row))
    nth = np.arange(len(row)) - np.repeat(starts, many)
    tight = many >= room - 1 if len(table.members) > places else many < 0
    some, excess = row[starts[tight]], many[tight] - room
    later = table.places[some, FIRST : width if room >= 0 else FIRST]
    claimed: NDArray[np.bool_] = np.isin(_codes(some[:, None], later), _codes(rows[named], members[named]))
    # A place yields if fewer claimants than are too many have yielding places after it.
    yields: NDArray[np.bool_] = ~claimed & (np.cumsum(~claimed[:, ::-1], axis=1)[:, ::-1] <= excess[:, None])
    many_yield: NDArray[np.intp] = yields.sum(axis=1)
    shift = np.zeros(len(starts), np.intp)
    shift[tight] = many_yield
    place = width + nth - np.repeat(shift, many)
    fits = place < places
    moves, at = np.nonzero(~yields & (np.cumsum(yields, axis=1) > 0))
    moved_to = FIRST - 1 + np.cumsum(~yields, axis=1)[moves, at]
    placed = (
        np.concatenate([row[fits], some[moves]]),
        np.concatenate([place[fits], moved_to]).astype(np.uint8),
        np.concatenate([member[fits], later[moves, at]]),
    )
    return placed, (some, (~claimed).sum(axis=1) - excess)
