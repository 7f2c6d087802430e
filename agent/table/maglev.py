# SPDX-License-Identifier: Apache-2.0
"""Rows by Maglev hashing: nearly the same number of rows for each member, which rendezvous leaves to chance.

Owns the filling and the composition of the chains. Pure, integers only.

Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4: each backend
walks through all entries in an order of its own, offset + i * skip; the backends take turns, and in its turn each takes
the next entry of its walk that is still free; with weights, some have turns more often. This module:

1. A table has a power of two of rows, not a prime: a walk with an odd skip visits each of them once too.
2. A member's turns come at the times (k - 1/2) / weight, k = 1, 2, ..., equal times in the order of addresses: a
   member's times do not depend on the others'. Each gets its share of rows to within one or two.
3. A row's later places. A walk also passes rows that are taken already. The passes of a row, in order of time, are its
   owners if all earlier ones were missing: **the first member to pass a row is its owner, the second would be the owner
   without the first**. So a row ranks members by the time at which their walks reach it. Members that have not reached
   it when the table is full are ranked by the time that they would still need, those of weight 0 last.
4. Version 2 of the algorithm ends turns when one row of 32 (`UNFILLED`) is left. Each of these has the member whose
   walk reaches it with the fewest steps, divided by its weight; the same number ranks members that have not reached a
   row. It depends on no other member. Version 1 leaves no row, and counts the steps from where each walk ends.
5. Place 0 is the first by effective weight among the members that are up. The others follow, in turn by nominal weight
   over all members and by effective weight.

Why the old owner is still in the chain after a change. A draining, lost or unhealthy member has no turns any more, but
the filling by nominal weights still contains it: place 1 is the owner by nominal weight, so after the first such change
it is exactly the old owner, in every row. Its removal after that moves no owner at all. A member that is added (or
returns) takes rows that others pass soon after, and shifts their walks by a turn: the old owner is among the next to
pass, except in the rows that were taken last, where a shift moves walks far. That is why version 2 leaves these.
Measured with 65,536 rows, chains of 4, one member added to 16, 64, 512, 1,023: the old owner is missing in 0, 0, 0, 1
of 3,971, 1,196, 321, 211 moved rows; with version 1 in 5, 18, 131, 63 of 4,035, 1,335, 697, 423. A lower nominal weight
hides old owners more often, as it does with rendezvous. The price of the even spread is that more owners move
(rendezvous: 3,958, 1,008, 137, 73 rows, and none is missing), and that every change is a full filling, of 0.05 s, with
1,000 members 0.5 s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.model import Candidate
from agent.table.cost import EMPTY, MEMBER_BITS, MEMBER_MASK, WEIGHTLESS, Keys
from agent.table.table import Places, Table, nominal, owners

UNFILLED: Final = 32
"""Turns leave one row of so many in version 2. That few decide the spread, and a walk passes as many rows in a turn."""
_TAIL: Final = 1024
"""With fewer free rows it is faster to compute their steps in a walk than to walk."""
_BLOCK: Final = 1 << 17
"""Members times rows processed at a time: it limits the working memory to some MB."""


@dataclass(frozen=True, slots=True)
class _Walks:
    """Each member's walk through the rows: the row of its i-th step is (offset + i * skip) mod rows."""

    offsets: Keys
    skips: Keys
    inverses: Keys
    rows: int

    @staticmethod
    def of(members: Sequence[bytes], rows: int) -> _Walks:
        digests = [hashlib.sha256(b"anylb maglev " + member).digest() for member in members]
        offsets = [int.from_bytes(digest[:8]) % rows for digest in digests]
        skips = [(int.from_bytes(digest[8:16]) | 1) % rows for digest in digests]
        inverses = [pow(skip, -1, rows) for skip in skips]
        return _Walks(np.array(offsets, np.uint64), np.array(skips, np.uint64), np.array(inverses, np.uint64), rows)

    def steps(self, members: NDArray[np.intp] | slice, row: Keys) -> Keys:
        """Return the steps at which these members reach these rows."""
        steps: Keys = ((row - self.offsets[members]) * self.inverses[members]) & np.uint64(self.rows - 1)
        return steps


def build(candidates: Sequence[Candidate], rows: int, chain: int, unfilled: int = 0) -> Table:
    """Return the table of a service: int16 places of shape (rows, chain). rendezvous.build has the rules.

    Turns end when `unfilled` rows are left.
    """
    if not candidates:
        return Table((), np.full((rows, chain), -1, np.int16))
    weights, taking = nominal(candidates), owners(candidates)
    members = sorted(weights)
    by_nominal = _ranked(members, weights, rows, unfilled, min(chain, len(members)))
    planes = list(by_nominal)
    if taking != weights:
        by_effective = _ranked(members, taking, rows, unfilled, min(chain, len(taking)))
        pairs = [list(by_effective), list(by_nominal)]
        planes = [plane[i] for i in range(len(by_nominal)) for plane in pairs if i < len(plane)]
    return Table(tuple(map(IPv4Address, members)), _distinct(planes, min(chain, len(members)), chain))


def _distinct(planes: Sequence[Places], width: int, chain: int) -> Places:
    """Return the first `width` different members of each row's planes, -1 after them; shape (rows, chain)."""
    rows = len(planes[0])
    places = np.full((rows, chain), -1, np.int16)
    count = np.zeros(rows, np.intp)
    for plane in planes:
        fresh = np.flatnonzero((count < width) & (places != plane[:, None]).all(axis=1))
        places[fresh, count[fresh]] = plane[fresh]
        count[fresh] += 1
    return places


def _ranked(members: Sequence[bytes], weights: Mapping[bytes, int], rows: int, unfilled: int, depth: int) -> Places:
    """Return the members with a weight, owner first, as indexes into `members`; shape (depth, rows).

    `depth` is at most their number.
    """
    those = [i for i, member in enumerate(members) if member in weights]
    walks = _Walks.of([members[i] for i in those], rows)
    by_place = np.array([weights[members[i]] for i in those], np.uint64)
    if not by_place.any():
        by_place += np.uint64(1)
    turns = _turns(by_place, rows)[: rows - unfilled]
    took = _fill(walks, turns)
    ranked = _passes(walks, by_place, turns, took, depth)
    return np.array(those, np.int16)[ranked]


def _turns(weights: Keys, rows: int) -> NDArray[np.intp]:
    """Return the member of each of `rows` turns."""
    share = (rows + len(weights)) * weights // weights.sum() + np.uint64(2)
    share[weights == 0] = 0
    member = np.repeat(np.arange(len(weights)), share.astype(np.intp))
    first = np.repeat(np.cumsum(share) - share, share.astype(np.intp))
    number = np.arange(len(member), dtype=np.uint64) - first
    times = ((number * np.uint64(2) + np.uint64(1)) << np.uint64(32)) // weights[member]
    return member[np.argsort(times, kind="stable")[:rows]]


def _fill(walks: _Walks, turns: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the row that is taken in each turn."""
    mask, skips, at = walks.rows - 1, walks.skips.tolist(), walks.offsets.tolist()
    taken, took = bytearray(walks.rows), []
    for member in turns[: max(0, walks.rows - _TAIL)].tolist():
        row, skip = at[member], skips[member]
        while taken[row]:
            row = (row + skip) & mask
        taken[row] = 1
        at[member] = row
        took.append(row)
    free = np.flatnonzero(np.frombuffer(taken, np.uint8) == 0)
    # All rows that a walk has passed are taken, so its next row is the first free one from its start.
    for member in turns[len(took) :].tolist():
        nearest = int(np.argmin(walks.steps(np.array([member]), free.astype(np.uint64))))
        took.append(int(free[nearest]))
        free[nearest] = free[-1]
        free = free[:-1]
    return np.array(took, np.intp)


def _passes(walks: _Walks, weights: Keys, turns: NDArray[np.intp], took: NDArray[np.intp], depth: int) -> Places:
    """Return the `depth` members whose walks reach each row first; shape (depth, rows)."""
    by_member = np.argsort(turns, kind="stable")  # each member's turns, in order
    member = turns[by_member]
    reached = walks.steps(member, took[by_member].astype(np.uint64)).astype(np.intp) + 1
    first = np.r_[True, member[1:] != member[:-1]]
    passed = reached - np.where(first, 0, np.r_[0, reached[:-1]])  # rows passed in a turn, the one taken included
    ends = np.zeros(len(weights), np.intp)
    ends[member] = reached  # the last turn's remains
    who = np.repeat(np.arange(len(weights)), ends)
    step = np.arange(len(who)) - np.repeat(np.cumsum(ends) - ends, ends)
    row = (walks.offsets[who] + step.astype(np.uint64) * walks.skips[who]) & np.uint64(walks.rows - 1)
    when = np.repeat(by_member, passed).astype(np.uint64)
    key = (row << np.uint64(40)) | (when << np.uint64(MEMBER_BITS)) | who.astype(np.uint64)
    key.sort()
    row = (key >> np.uint64(40)).astype(np.intp)
    counts = np.bincount(row, minlength=walks.rows)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    ranked = np.full((depth, walks.rows), -1, np.int16)
    early = nth < depth
    ranked[nth[early], row[early]] = (key[early] & MEMBER_MASK).astype(np.int16)
    _complete(walks, weights, ends, counts, ranked, whole=len(turns) < walks.rows)
    return ranked


def _complete(
    walks: _Walks, weights: Keys, ends: NDArray[np.intp], counts: NDArray[np.intp], ranked: Places, *, whole: bool
) -> None:
    """Complete the rows that fewer members passed than a chain has places: by the time that the others need for all of
    the way there (`whole`), or for what is left of it."""
    short = np.flatnonzero(counts < len(ranked))
    many = np.arange(len(weights), dtype=np.uint64)
    for start in range(0, len(short), max(1, _BLOCK // len(weights))):
        rows = short[start : start + max(1, _BLOCK // len(weights))]
        steps = walks.steps(slice(None), rows.astype(np.uint64)[:, None])
        ahead = steps if whole else steps - ends.astype(np.uint64)  # wraps for members that have passed
        key = ((ahead << np.uint64(16)) // np.maximum(weights, np.uint64(1)) << np.uint64(MEMBER_BITS)) | many
        key += np.where(weights == 0, WEIGHTLESS, np.uint64(0))
        key[steps < ends.astype(np.uint64)] = EMPTY
        key = np.sort(np.partition(key, len(ranked) - 1, axis=1)[:, : len(ranked)], axis=1)
        for i in range(len(ranked)):
            need = np.flatnonzero(counts[rows] <= i)
            ranked[i, rows[need]] = (key[need, i - counts[rows[need]]] & MEMBER_MASK).astype(np.int16)
