# SPDX-License-Identifier: Apache-2.0
"""The best members of every row, and how one member changes them: the source of a rendezvous table.

Owns the selection and its upkeep, but neither states nor chains. Pure: a ranking is a value, a change makes another
one, and a series of changes lists exactly what a full build lists, as far as both lists go.

Each row lists more members (its depth) than a chain has places. So a new member is compared with the listed ones, a
removed one leaves its place to the next, and all members of a row are ranked again only when the row has no spares
left. `horizon` is how far a list is complete: it lists every member whose key is below it.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.table.cost import (
    EMPTY,
    MEMBER_BITS,
    MEMBER_MASK,
    MEMBERS_MAX,
    WEIGHTLESS,
    Keys,
    hashes,
    least_hashes,
    mix,
    rank_keys,
    row_factors,
    seed,
)

SPARES: Final = 4
"""Places beyond the chain. With 4 a row must lose five of its nine best before it is ranked again."""
_NUMBER: Final = np.uint16((1 << MEMBER_BITS) - 1)
_BLOCK: Final = 1 << 17
"""Keys processed at a time: 1 MB, which fits into a core's L2 cache."""
_FEW: Final = 40
"""Up to so many members all keys are computed and sorted; with more, only those of members with a good hash."""
_PROMISING: Final = 24.0
"""How many members of a row have such a hash, on average; a row with fewer than its depth is ranked in full."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best members of each row by weight.

    `members` and `weights` are in the order of addresses (as packed bytes). `keys` has shape (depth, rows): the
    smallest keys of each row, EMPTY after the last; `horizon` shape (rows,).
    """

    members: tuple[bytes, ...]
    weights: tuple[int, ...]
    keys: Keys
    horizon: Keys

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.horizon)

    @property
    def depth(self) -> int:
        """The number of members that a row lists at most."""
        return len(self.keys)

    def ranks(self, weights: Mapping[bytes, int]) -> bool:
        """Return whether it ranks exactly these members by these weights."""
        return len(weights) == len(self.members) and weights == dict(zip(self.members, self.weights, strict=True))

    def order(self, places: int) -> NDArray[np.int16]:
        """Return the best `places` members of each row as indexes into `members`; shape (places, rows)."""
        return (self.keys[:places] & MEMBER_MASK).astype(np.int16)


def rank(weights: Mapping[bytes, int], rows: int, depth: int) -> Ranking:
    """Build a ranking. `weights` are by packed address, at least one."""
    members = tuple(sorted(weights))
    if len(members) >= MEMBERS_MAX:
        raise ValueError(f"{len(members)} members: a key has room for {MEMBERS_MAX - 1}")
    ranked = tuple(weights[member] for member in members)
    best, horizon = _best(members, ranked, row_factors(rows), depth)
    return Ranking(members, ranked, best, horizon)


def best_of(members: Sequence[bytes], weights: Sequence[int], rows: int, some: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the best member of some rows, as an index into `members`, which are in the order of addresses."""
    best, _ = _best(members, weights, row_factors(rows)[some], 1)
    found: NDArray[np.intp] = (best[0] & MEMBER_MASK).astype(np.intp)
    return found


def change(before: Ranking, weights: Mapping[bytes, int], needed: int) -> Ranking:
    """Return the ranking of these weights, made from `before`. `needed`: how many places of each row must be exact."""
    previous = dict(zip(before.members, before.weights, strict=True))
    if previous == weights:
        return before
    removed = [member for member, weight in previous.items() if weights.get(member) != weight]
    added = [member for member, weight in weights.items() if previous.get(member) != weight]
    # One step costs about as much as ranking ten members in a full build.
    if len(removed) + len(added) > 2 + len(weights) // 10 or len(removed) == len(previous):
        return rank(weights, before.rows, before.depth)
    members, ranked = list(before.members), list(before.weights)
    best, horizon = before.keys.copy(), before.horizon.copy()
    for member in removed:
        place = members.index(member)
        _remove(best, place)
        if member not in weights:
            del members[place], ranked[place]
            _renumber(best, horizon, place, -1)
    for member in added:
        place = bisect_left(members, member)
        if member not in previous:
            members.insert(place, member)
            ranked.insert(place, 0)
            _renumber(best, horizon, place, 1)
        ranked[place] = weights[member]
        _insert(best, horizon, place, member, weights[member])
    after = Ranking(tuple(members), tuple(ranked), best, horizon)
    _refill(after, needed)
    return after


def _numbers(found: Keys) -> NDArray[np.uint16]:
    """Return a view of the 16 bits of each key with the member's number and one more bit: a quarter of the memory."""
    quarters: NDArray[np.uint16] = found.view(np.uint16)[..., 0 if sys.byteorder == "little" else 3 :: 4]
    return quarters


def _renumber(best: Keys, horizon: Keys, place: int, by: int) -> None:
    """Renumber the members in the keys after an insertion at `place` (`by` is 1) or a removal there (-1)."""
    for listed in (*best, horizon):
        numbers = _numbers(listed)
        if by > 0:
            numbers += (numbers & _NUMBER) >= place
        else:
            numbers -= (numbers & _NUMBER) > place
        if place == 0:  # EMPTY's own member bits are 0
            np.minimum(listed, EMPTY, out=listed)


def _remove(best: Keys, place: int) -> None:
    """Remove a member from the rows that list it: those after it move forward by one."""
    rows = np.flatnonzero(((_numbers(best) & _NUMBER) == place).any(axis=0))
    listed = best[:, rows]
    behind = np.logical_or.accumulate(((listed & MEMBER_MASK) == place) & (listed < EMPTY), axis=0)
    following = np.concatenate((listed[1:], np.full((1, len(rows)), EMPTY, np.uint64)))
    best[:, rows] = np.where(behind, following, listed)


def _insert(best: Keys, horizon: Keys, place: int, member: bytes, weight: int) -> None:
    """Insert a member into the rows where it belongs. In most rows its hash alone shows that it has no place there."""
    mixed = mix(row_factors(len(horizon)) ^ np.uint64(seed(member)))
    # Some rows are complete far beyond the limit: these are checked whatever the hash is.
    limit = min(2.0 * float(horizon.mean()), float(WEIGHTLESS))
    some = np.flatnonzero((mixed >= _bound(weight, limit)) | (horizon > np.uint64(limit)))
    new = rank_keys(hashes(mixed[some]), np.uint64(weight), np.uint64(place))
    fits = new < horizon[some]  # otherwise members that are not listed may rank before it
    rows, new = some[fits], new[fits]
    listed = best[:, rows]
    for better in listed:
        pushed = np.maximum(better, new)
        np.minimum(better, new, out=better)
        new = pushed
    best[:, rows], horizon[rows] = listed, np.minimum(horizon[rows], new)


def _bound(weight: int, limit: float) -> np.uint64:
    """Return a lower bound of the results of `mix` for members whose key is below `limit`.

    In floats: this affects the speed, never the result. Their error and that of the logarithm's table are far below
    2^-16.
    """
    if weight == 0:
        return np.uint64(0)
    share = 2.0 ** (-limit / float(1 << MEMBER_BITS) * weight / 2.0**42)
    return np.uint64(int(share * (1 - 2.0**-16) * 2**32) << 32)


def _refill(ranking: Ranking, needed: int) -> None:
    """Rank the rows again that list too few members, in place."""
    short = np.flatnonzero(ranking.keys[min(needed, len(ranking.members), ranking.depth) - 1] >= EMPTY)
    if len(short):
        best, horizon = _best(ranking.members, ranking.weights, row_factors(ranking.rows)[short], ranking.depth)
        ranking.keys[:, short], ranking.horizon[short] = best, horizon


def _best(members: Sequence[bytes], weights: Sequence[int], factors: Keys, depth: int) -> tuple[Keys, Keys]:
    """Return the `depth` smallest keys of some rows (given by their hash factors), and their horizons."""
    seeds = np.array([seed(member) for member in members], np.uint64)
    places = np.arange(len(members), dtype=np.uint64)
    by_place = np.array(weights, np.uint64)
    weighty = np.flatnonzero(by_place)
    limit = EMPTY
    if depth <= len(weighty) < len(members):
        # Members of weight 0 rank after all these: no row lists one.
        seeds, places, by_place, limit = seeds[weighty], places[weighty], by_place[weighty], WEIGHTLESS
    best = np.full((depth, len(factors)), EMPTY, np.uint64)
    horizon = np.full(len(factors), limit, np.uint64)
    if len(seeds) <= max(_FEW, 2 * depth) or len(weighty) < depth:
        _rank_all(seeds, by_place, places, factors, best, horizon)
    else:
        _rank_promising(seeds, by_place, places, factors, best, horizon)
    return best, horizon


def _rank_all(seeds: Keys, weights: Keys, places: Keys, factors: Keys, best: Keys, horizon: Keys) -> None:
    """Fill `best` and lower `horizon` from the keys of all members."""
    depth, step = len(best), max(1, _BLOCK // len(seeds))
    for start in range(0, len(factors), step):
        block = slice(start, start + step)
        all_keys = rank_keys(hashes(mix(factors[block, None] ^ seeds)), weights, places)
        _keep_best(all_keys, depth, best[:, block], horizon[block])


def _keep_best(found: Keys, depth: int, best: Keys, horizon: Keys) -> None:
    """Put the smallest keys of each row of `found` (rows, any number) into `best` and the next one into `horizon`."""
    width = found.shape[1]
    if width > depth + 1:
        found = np.partition(found, depth, axis=1)[:, : depth + 1]
    found.sort(axis=1)
    best[: min(width, depth)] = found[:, :depth].T
    if width > depth:
        np.minimum(horizon, found[:, depth], out=horizon)


def _rank_promising(seeds: Keys, weights: Keys, places: Keys, factors: Keys, best: Keys, horizon: Keys) -> None:
    """Rank as `_rank_all`, but compute only the hash of most members: it shows whether the cost is below a limit."""
    depth, step = len(best), max(1, _BLOCK // len(seeds))
    cost = _limit(weights, max(_PROMISING, 2.5 * depth))
    distinct, which = np.unique(weights, return_inverse=True)
    least = least_hashes(distinct, cost)[which]
    # Above 2^32 - 1 no hash qualifies; shifted up, the bound would wrap to 0.
    bound = np.where(least > 0xFFFFFFFF, np.uint64(0xFFFFFFFFFFFFFFFF), least << np.uint64(32))
    np.minimum(horizon, np.uint64((cost + 1) << MEMBER_BITS), out=horizon)
    for start in range(0, len(factors), step):
        block = slice(start, start + step)
        mixed = mix(factors[block, None] ^ seeds)
        good = np.flatnonzero(mixed >= bound)
        row, member = np.divmod(good, len(seeds))
        found = rank_keys(hashes(mixed.ravel()[good]), weights[member], places[member])
        counts = np.bincount(row, minlength=len(mixed))
        nth = np.arange(len(good)) - np.repeat(np.cumsum(counts) - counts, counts)
        padded = np.full((len(mixed), max(int(np.max(counts)), depth)), EMPTY, np.uint64)
        padded[row, nth] = found
        _keep_best(padded, depth, best[:, block], horizon[block])
    poor = np.flatnonzero(best[-1] >= EMPTY)
    if len(poor):
        fewer, next_ = np.full((depth, len(poor)), EMPTY, np.uint64), np.full(len(poor), EMPTY, np.uint64)
        _rank_all(seeds, weights, places, factors[poor], fewer, next_)
        best[:, poor], horizon[poor] = fewer, np.minimum(next_, WEIGHTLESS)


def _limit(weights: Keys, wanted: float) -> int:
    """Return a cost above that of about `wanted` members of each row. In floats: it affects speed, never the result."""
    low, high = 0.0, float(1 << 47)
    by_weight = weights.astype(np.float64) / -(2.0**42)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - np.exp2(by_weight * middle)).sum() < wanted else (low, middle)
    return int(high)
