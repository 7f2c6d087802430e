# SPDX-License-Identifier: Apache-2.0
"""The maps of one group of listeners: which listener has which slot, in which order a connection tries them, and which
connections are health checks."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from bpf.kernel.bpf_map import possible_cpus
from bpf.layout.instance import (
    CELLS,
    CHOICES,
    LISTENERS,
    PLACES,
    PROBES,
    SLOTS,
    Cells,
    map_specs,
    pack_cell,
    unpack_cell,
)
from bpf.maps.pinned_map import PinnedMap, pack_index


class InstanceMaps:
    """All maps, open. The kernel empties the slot of a listener that is closed."""

    def __init__(self, pinned: Mapping[str, PinnedMap]) -> None:
        self._pinned = pinned
        self._listeners, self._choices, self._probes = (pinned[spec.name] for spec in (LISTENERS, CHOICES, PROBES))

    @classmethod
    def open(cls, folder: Path, udp: bool = False, steered: bool = False) -> Self:
        """Open the maps pinned in a folder; make and pin those that are missing. Raises BpfError."""
        with contextlib.ExitStack() as stack:
            pinned = {}
            for spec in map_specs(udp, steered):
                pinned[spec.name] = PinnedMap.open(folder, spec)
                stack.callback(pinned[spec.name].close)
            stack.pop_all()
        return cls(pinned)

    def pins(self, folder: Path) -> dict[Path, int]:
        """Return their descriptors by pin in a folder."""
        return {folder / name: one.fd for name, one in self._pinned.items()}

    def cookies(self) -> dict[int, int]:
        """Return the socket cookie (SO_COOKIE) of each listener, by slot."""
        found = {slot: self._listeners.lookup(pack_index(slot)) for slot in range(SLOTS)}
        return {slot: int.from_bytes(cookie, "little") for slot, cookie in found.items() if cookie}

    def put(self, slot: int, fd: int) -> None:
        """Give a slot to a listener, of which `fd` is a descriptor. Raises BpfError: with EBUSY it is in a map already,
        with EINVAL it has no SO_REUSEPORT."""
        self._listeners.update(pack_index(slot), fd.to_bytes(8, "little"))

    def remove(self, slot: int) -> None:
        """Take a listener out; it stays open."""
        self._listeners.delete(pack_index(slot))

    def choose(self, by_cpu: Sequence[Cells]) -> None:
        """Write in which order each cell tries the slots: all at once, each cell as a whole.

        `by_cpu` has the cells of each possible CPU, or one list for all of them.
        """
        alike = possible_cpus() if len(by_cpu) == 1 else 1
        values = [b"".join(map(pack_cell, of_cpus)) * alike for of_cpus in zip(*by_cpu, strict=True)]
        self._choices.update_batch([pack_index(cell) for cell in range(CELLS)], values)

    def cells(self) -> list[Cells]:
        """Return what `choose` wrote: of each possible CPU, or one list if all are alike."""
        values = [self._choices.entry(cell) for cell in range(CELLS)]
        by_cpu: list[Cells] = [
            [unpack_cell(value[at : at + PLACES]) for value in values] for at in range(0, len(values[0]), PLACES)
        ]
        return by_cpu[:1] if all(cells == by_cpu[0] for cells in by_cpu) else by_cpu

    def probe(self, port: int, slot: int | None) -> None:
        """Have connections of this node to itself from a source port go to a slot; None: to any."""
        if slot is None:
            self._probes.delete(pack_index(port))
        else:
            self._probes.update(pack_index(port), pack_index(slot))

    def map_ids(self) -> frozenset[int]:
        """Return the kernel's ids of the maps."""
        return frozenset(one.id() for one in self._pinned.values())

    def close(self) -> None:
        """Close the descriptors; the pins live on."""
        for one in self._pinned.values():
            one.close()
