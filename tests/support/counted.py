# SPDX-License-Identifier: Apache-2.0
"""What a program counted, straight from its map: `CounterMap.read` takes five times as long, and tests always ask."""

from collections import Counter as Tally

import numpy as np

from bpf.layout.counter import Counter
from bpf.maps.maps import Maps

_SLOTS = 16
"""No test of a single packet has services in higher slots."""


_COUNTERS = list(Counter)


def counted(maps: Maps) -> Tally[tuple[int, Counter]]:
    """Return the packets by (slot, counter), over all CPUs, without zeros; one such tally can be taken from another."""
    values = b"".join(map(maps.pinned["stats"].entry, range(_SLOTS)))
    sums = np.frombuffer(values, np.uint64).reshape(_SLOTS, -1, len(Counter)).sum(axis=1)
    found: Tally[tuple[int, Counter]] = Tally()
    for slot, number in zip(*(one.tolist() for one in sums.nonzero()), strict=True):
        found[slot, _COUNTERS[number]] = int(sums[slot, number])
    return found
