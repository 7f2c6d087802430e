# SPDX-License-Identifier: Apache-2.0
"""The counters, which each CPU has for itself."""

import numpy as np

from bpf.layout.counter import Counter
from bpf.maps.pinned_map import PinnedMap
from bpf.maps.service_map import ServiceMap

_NAMES = tuple(counter.name.lower() for counter in sorted(Counter))


class CounterMap:
    """The counters of all services, and in slot 0 those of packets that belong to none."""

    def __init__(self, stats: PinnedMap, services: ServiceMap) -> None:
        self._stats = stats
        self._services = services

    def read(self) -> dict[int, dict[str, int]]:
        """Return the sums over all CPUs: slot -> name in lower case -> packets."""
        slots = {0} | {entry.slot for entry in self._services.read().values()}
        return {slot: self.of_slot(slot) for slot in sorted(slots)}

    def of_slot(self, slot: int) -> dict[str, int]:
        """Return the sums of one slot over all CPUs: name in lower case -> packets."""
        per_cpu = np.frombuffer(self._stats.entry(slot), np.uint64).reshape(-1, len(Counter))
        return dict(zip(_NAMES, per_cpu.sum(axis=0).tolist(), strict=True))

    def of_counter(self, slot: int, counter: Counter) -> int:
        """Return the sum of one counter of a slot over all CPUs."""
        return int(np.frombuffer(self._stats.entry(slot), np.uint64)[counter :: len(Counter)].sum())
