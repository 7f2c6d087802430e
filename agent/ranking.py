# SPDX-License-Identifier: Apache-2.0
"""The best members of every row, and how they change with one member: what a rendezvous table is read from.

Owns the selection and its upkeep, nothing of states or chains; pure. A ranking is a value: a change makes another one,
and what a chain of changes leads to lists exactly what a full build lists, as far as both list.

Each row lists more members than a chain has places (its depth). So a new member is compared with what is listed, a
removed one leaves its place to the next, and all members of a row are ranked anew only when a row's spares run out.
`horizon` says how far a list may be trusted: every member whose key is below it is listed.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.cost import (
    EMPTY,
    MEMBER_BITS,
    MEMBER_MASK,
    MEMBERS_MAX,
    WEIGHTLESS,
    Keys,
    hashes,
    keys,
    least_hashes,
    mix,
    row_factors,
    seed,
)

SPARES: Final = 4
"""Places beyond the chain. With 4 a row must lose five of its nine best before it is ranked anew."""
_BLOCK: Final = 1 << 17
"""Keys worked on at a time: 1 MB, what a core's second cache holds."""
_FEW: Final = 40
"""Up to so many members the keys of all are made and sorted; with more, only of those whose hash is good enough."""
_WORTH: Final = 24.0
"""How many members of a row shall have such a hash, on average; a row with fewer than its depth is ranked in full."""


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
        """How many rows."""
        return len(self.horizon)

    @property
    def depth(self) -> int:
        """How many members a row lists at most."""
        return len(self.keys)

    def ranks(self, weights: Mapping[bytes, int]) -> bool:
        """Whether it is of exactly these members, by these weights."""
        return len(weights) == len(self.members) and weights == dict(zip(self.members, self.weights, strict=True))

    def order(self, places: int) -> NDArray[np.int16]:
        """The best `places` members of each row as indexes into `members`; shape (places, rows)."""
        return (self.keys[:places] & MEMBER_MASK).astype(np.int16)


def rank(weights: Mapping[bytes, int], rows: int, depth: int) -> Ranking:
    """Rank from nothing. `weights` by address; at least one."""
    members = tuple(sorted(weights))
    if len(members) >= MEMBERS_MAX:
        raise ValueError(f"{len(members)} members: a key has room for {MEMBERS_MAX - 1}")
    ranked = tuple(weights[member] for member in members)
    best, horizon = _best(members, ranked, row_factors(rows), depth)
    return Ranking(members, ranked, best, horizon)


def best_of(members: Sequence[bytes], weights: Sequence[int], rows: int, some: NDArray[np.intp]) -> NDArray[np.intp]:
    """The best member of some of the rows, as an index into `members`, which are in the order of addresses."""
    best, _ = _best(members, weights, row_factors(rows)[some], 1)
    found: NDArray[np.intp] = (best[0] & MEMBER_MASK).astype(np.intp)
    return found


def change(before: Ranking, weights: Mapping[bytes, int], needed: int) -> Ranking:
    """The ranking of these weights, made from another one. `needed`: how many places of each row must be true."""
    told = dict(zip(before.members, before.weights, strict=True))
    if told == weights:
        return before
    gone = [member for member, weight in told.items() if weights.get(member) != weight]
    come = [member for member, weight in weights.items() if told.get(member) != weight]
    # One step costs about as much as ranking ten members from nothing.
    if len(gone) + len(come) > 2 + len(weights) // 10 or len(gone) == len(told):
        return rank(weights, before.rows, before.depth)
    members, ranked = list(before.members), list(before.weights)
    best, horizon = before.keys.copy(), before.horizon.copy()
    for member in gone:
        place = members.index(member)
        del members[place], ranked[place]
        _remove(best, horizon, place)
    for member in come:
        place = bisect(members, member)
        members.insert(place, member)
        ranked.insert(place, weights[member])
        _insert(best, horizon, place, member, weights[member])
    after = Ranking(tuple(members), tuple(ranked), best, horizon)
    _refill(after, needed)
    return after


def _insert(best: Keys, horizon: Keys, place: int, member: bytes, weight: int) -> None:
    """List a new member where it belongs. Keys name members by place: those behind it move up by one first."""
    for listed in (*best, horizon):
        listed += (listed & MEMBER_MASK) >= place
        if place == 0:  # EMPTY's own member bits are 0
            np.minimum(listed, EMPTY, out=listed)
    new = keys(hashes(mix(row_factors(len(horizon)) ^ np.uint64(seed(member)))), np.uint64(weight), np.uint64(place))
    new[new >= horizon] = EMPTY  # others that are not listed may come before it
    pushed = np.empty_like(new)
    for listed in best:
        np.maximum(listed, new, out=pushed)
        np.minimum(listed, new, out=listed)
        new, pushed = pushed, new
    np.minimum(horizon, new, out=horizon)


def _remove(best: Keys, horizon: Keys, place: int) -> None:
    """Take a member out: the listed ones behind it move forward by one, and places above its own down by one."""
    behind = np.zeros(len(horizon), np.bool_)
    numbers = best[0] & MEMBER_MASK
    for i, listed in enumerate(best):
        behind |= (numbers == place) & (listed < EMPTY)
        if i + 1 < len(best):
            numbers = best[i + 1] & MEMBER_MASK
            np.copyto(listed, best[i + 1], where=behind)
        else:
            np.copyto(listed, EMPTY, where=behind)
    for listed in (*best, horizon):
        listed -= (listed & MEMBER_MASK) > place


def _refill(ranking: Ranking, needed: int) -> None:
    """Rank anew, in place, the rows that list too few."""
    short = np.flatnonzero(ranking.keys[min(needed, len(ranking.members), ranking.depth) - 1] >= EMPTY)
    if len(short):
        best, horizon = _best(ranking.members, ranking.weights, row_factors(ranking.rows)[short], ranking.depth)
        ranking.keys[:, short], ranking.horizon[short] = best, horizon


def _best(members: Sequence[bytes], weights: Sequence[int], factors: Keys, depth: int) -> tuple[Keys, Keys]:
    """The `depth` smallest keys of some rows (given by their hash factors), and up to where that is all."""
    seeds = np.array([seed(member) for member in members], np.uint64)
    places = np.arange(len(members), dtype=np.uint64)
    by_place = np.array(weights, np.uint64)
    weighty = np.flatnonzero(by_place)
    limit = EMPTY
    if depth <= len(weighty) < len(members):
        # Those of weight 0 rank behind all these: no row lists one.
        seeds, places, by_place, limit = seeds[weighty], places[weighty], by_place[weighty], WEIGHTLESS
    best = np.full((depth, len(factors)), EMPTY, np.uint64)
    horizon = np.full(len(factors), limit, np.uint64)
    if len(seeds) <= max(_FEW, 2 * depth) or len(weighty) < depth:
        _rank_all(seeds, by_place, places, factors, best, horizon)
    else:
        _rank_good(seeds, by_place, places, factors, best, horizon)
    return best, horizon


def _rank_all(seeds: Keys, weights: Keys, places: Keys, factors: Keys, best: Keys, horizon: Keys) -> None:
    """Fill `best` and lower `horizon` from the keys of all members."""
    depth, step = len(best), max(1, _BLOCK // len(seeds))
    for start in range(0, len(factors), step):
        block = slice(start, start + step)
        all_keys = keys(hashes(mix(factors[block, None] ^ seeds)), weights, places)
        _take(all_keys, depth, best[:, block], horizon[block])


def _take(found: Keys, depth: int, best: Keys, horizon: Keys) -> None:
    """Put the smallest keys of each row of `found` (rows, any number) into `best` and the next one into `horizon`."""
    width = found.shape[1]
    if width > depth + 1:
        found = np.partition(found, depth, axis=1)[:, : depth + 1]
    found.sort(axis=1)
    best[: min(width, depth)] = found[:, :depth].T
    if width > depth:
        np.minimum(horizon, found[:, depth], out=horizon)


def _rank_good(seeds: Keys, weights: Keys, places: Keys, factors: Keys, best: Keys, horizon: Keys) -> None:
    """As `_rank_all`, but of most members only the hash is made: it tells whether the cost is below a limit."""
    depth, step = len(best), max(1, _BLOCK // len(seeds))
    cost = _limit(weights, max(_WORTH, 2.5 * depth))
    distinct, which = np.unique(weights, return_inverse=True)
    least = least_hashes(distinct, cost)[which]
    # Above 2^32 - 1 nothing qualifies; shifted up, the bound would wrap to 0.
    bound = np.where(least > 0xFFFFFFFF, np.uint64(0xFFFFFFFFFFFFFFFF), least << np.uint64(32))
    np.minimum(horizon, np.uint64((cost + 1) << MEMBER_BITS), out=horizon)
    for start in range(0, len(factors), step):
        block = slice(start, start + step)
        mixed = mix(factors[block, None] ^ seeds)
        good = np.flatnonzero(mixed >= bound)
        row, member = np.divmod(good, len(seeds))
        found = keys(hashes(mixed.ravel()[good]), weights[member], places[member])
        counts = np.bincount(row, minlength=len(mixed))
        nth = np.arange(len(good)) - np.repeat(np.cumsum(counts) - counts, counts)
        padded = np.full((len(mixed), max(int(counts.max()), depth)), EMPTY, np.uint64)
        padded[row, nth] = found
        _take(padded, depth, best[:, block], horizon[block])
    poor = np.flatnonzero(best[-1] >= EMPTY)
    if len(poor):
        fewer, next_ = np.full((depth, len(poor)), EMPTY, np.uint64), np.full(len(poor), EMPTY, np.uint64)
        _rank_all(seeds, weights, places, factors[poor], fewer, next_)
        best[:, poor], horizon[poor] = fewer, np.minimum(next_, WEIGHTLESS)


def _limit(weights: Keys, wanted: float) -> int:
    """A cost that about `wanted` members of each row stay below. In floats: it decides how fast, never what."""
    low, high = 0.0, float(1 << 47)
    by_weight = weights.astype(np.float64) / -(2.0**42)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - np.exp2(by_weight * middle)).sum() < wanted else (low, middle)
    return int(high)
