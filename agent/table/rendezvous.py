# SPDX-License-Identifier: Apache-2.0
"""Rows by weighted rendezvous hashing (highest random weight): from the members of a service to its table.

Owns the step from rankings to chains. Pure. Every node computes the same table from the same members, so there are
only integers: no floating point, no libm, no order of iteration.

Thaler and Ravishankar (1998) rank the members of a row by a hash; Schindelhauer and Schomaker (2005) add weights by
ranking -log(h)/weight, smallest first. Here h is 32 bits of hash, and log2 is fixed point with 26 fractional bits.

Place 0 of a row, the owner, is the best of the members that are up, by effective weight. The later places rank up,
draining and lost members alike by nominal weight: so a lower effective weight never hides an old owner from the chain.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from ipaddress import IPv4Address

import numpy as np

from agent.model import Candidate
from agent.table.cost import EMPTY, MEMBER_MASK
from agent.table.ranking import SPARES, Ranking, best_of, change, rank
from agent.table.table import Places, Table, chains, nominal, owners


def build(candidates: Sequence[Candidate], rows: int, chain: int, before: Table | None = None) -> Table:
    """Return the table of a service: int16 places of shape (rows, chain).

    `candidates` may come in any order; each address once, none of them `left`. No candidates: every place is -1.
    `before` is any earlier table: the more similar its members, the faster the build. It never changes the result.
    """
    if not candidates:
        return Table((), np.full((rows, chain), -1, np.int16))
    weights, taking = nominal(candidates), owners(candidates)
    near = before.ranking if before else None
    if near is not None and (near.rows, near.depth) == (rows, chain + SPARES):
        ranking = change(near, weights, chain)
    else:
        near, ranking = None, rank(weights, rows, chain + SPARES)
    effective = None
    if 2 * len(taking) < len(weights) or any(weights[member] != weight for member, weight in taking.items()):
        effective = change(before.effective if near and before and before.effective else ranking, taking, 1)
        first = _renumbered(effective, ranking)
    else:
        first = _first_of(ranking, taking)
    places = chains(first, ranking.order(min(chain, len(weights))), chain)
    members = tuple(map(IPv4Address, ranking.members))
    return Table(members, places, ranking, effective)


def _renumbered(effective: Ranking, ranking: Ranking) -> Places:
    """Return the best of each row of `effective`, as indexes into the members of `ranking`."""
    numbers = {member: i for i, member in enumerate(ranking.members)}
    of_effective = np.array([numbers[member] for member in effective.members], np.int16)
    first: Places = of_effective[effective.order(1)[0]]
    return first


def _first_of(ranking: Ranking, taking: Collection[bytes]) -> Places:
    """Return the best of each row among the members `taking`, whose weights are the ranking's own."""
    if len(taking) == len(ranking.members):
        best: Places = ranking.order(1)[0]
        return best
    takes = np.array([member in taking for member in ranking.members])
    first: Places = (ranking.keys[0] & MEMBER_MASK).astype(np.int16)
    left = np.flatnonzero(~takes[first] | (ranking.keys[0] >= EMPTY))
    first[left] = -1
    for listed in ranking.keys[1:]:
        keys = listed[left]
        number = (keys & MEMBER_MASK).astype(np.int16)
        found = takes[number] & (keys < EMPTY)
        first[left[found]] = number[found]
        left = left[~found]
    if len(left):
        those = np.flatnonzero(takes).astype(np.int16)
        members = [ranking.members[i] for i in those]
        weights = [ranking.weights[i] for i in those]
        others = best_of(members, weights, ranking.rows, left)
        first[left] = those[others]
    return first
