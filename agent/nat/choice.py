# SPDX-License-Identifier: Apache-2.0
"""The choice table of a NAT service: 256 entries, of which a new session's hash names one, and so its backend. Pure.

1. Each backend has its share of the entries by weight, to within one: as many backends as entries can be served.
2. Which entries these are, weighted rendezvous hashing decides (agent/table/cost.py): the pairs of entry and backend
   are taken in the order of their costs, as long as the entry is free and the backend's share is not full. So a changed
   list of backends changes few entries.
3. The entries of a backend that is down or drained go to the best of the others, entry by entry; those of the others
   stay. So a backend that goes moves its own new sessions only, and they come back to it.

A session is stored with its backend: no change of a table moves a session that exists.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.table.cost import Keys, hashes, mix, rank_keys, row_factors, seed

ENTRIES: Final = 256

Choices = NDArray[np.int32]


class ChoiceTable:
    """The choice among some backends, given by name (any bytes, the same on every node) with their weights."""

    def __init__(self, weights: Mapping[bytes, int]) -> None:
        self.names = tuple(sorted(name for name, weight in weights.items() if weight))
        """The backends with a weight, which entries refer to by their place here."""
        shares = [weights[name] for name in self.names]
        self._costs = _costs(self.names, shares)
        self._all = _even(self._costs, _quotas(shares))

    def among(self, usable: Collection[bytes]) -> Choices:
        """Return the entries as places in `names`, if only these backends take new sessions; -1 if none does."""
        usable_places = np.array([name in usable for name in self.names], np.bool_)
        if not usable_places.any():
            return np.full(ENTRIES, -1, np.int32)
        some = np.flatnonzero(usable_places)
        best = some[self._costs[:, some].argmin(axis=1)]
        return np.where(usable_places[self._all], self._all, best).astype(np.int32)


def _costs(names: Collection[bytes], weights: Collection[int]) -> Keys:
    """Return the cost of each backend in each entry; shape (ENTRIES, backends)."""
    seeds = np.array([seed(name) for name in names], np.uint64)
    places = np.arange(len(seeds), dtype=np.uint64)
    return rank_keys(hashes(mix(row_factors(ENTRIES)[:, None] ^ seeds)), np.array(weights, np.uint64), places)


def _quotas(weights: Collection[int]) -> list[int]:
    """Return how many entries each backend gets: its exact share rounded, the largest remainders up."""
    total = sum(weights)
    quotas = [ENTRIES * weight // total for weight in weights]
    remainders = sorted(range(len(quotas)), key=lambda i: (quotas[i] * total - ENTRIES * list(weights)[i], i))
    for i in remainders[: ENTRIES - sum(quotas)]:
        quotas[i] += 1
    return quotas


def _even(costs: Keys, quotas: list[int]) -> Choices:
    """Return the entries when all take new sessions."""
    entries, left = np.full(ENTRIES, -1, np.int32), list(quotas)
    for pair in np.argsort(costs, axis=None, kind="stable").tolist():
        entry, place = divmod(pair, len(quotas))
        if entries[entry] < 0 and left[place]:
            entries[entry] = place
            left[place] -= 1
    return entries
