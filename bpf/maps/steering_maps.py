# SPDX-License-Identifier: Apache-2.0
"""The maps of steer.c: which VIPs and ports are steered, and which listeners get their connections."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from bpf.layout.address import Address
from bpf.layout.steering import ENTRIES, EXEMPT, MAP_SPECS, PLACES, STEERED, TARGETS, pack_key
from bpf.maps.pinned_map import PinnedMap, pack_index


class SteeringMaps:
    """Both maps, open. The kernel empties the place of a listener that is closed."""

    def __init__(self, pinned: Mapping[str, PinnedMap]) -> None:
        self._pinned = pinned
        self._steered, self._targets = pinned[STEERED.name], pinned[TARGETS.name]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the maps pinned in a folder; make and pin those that are missing. Raises BpfError."""
        with contextlib.ExitStack() as stack:
            pinned = {}
            for spec in MAP_SPECS:
                pinned[spec.name] = PinnedMap.open(folder, spec)
                stack.callback(pinned[spec.name].close)
            stack.pop_all()
        return cls(pinned)

    def steer(self, vip: Address, port: int) -> int:
        """Steer a VIP's port, 0 for any, and return the number of its places. One that is new has no listener yet.

        Raises BpfError.
        """
        key = pack_key(vip, port)
        number = self._number(key)
        if number is None:
            number = self._free_number()
            self.clear(number)
            self._steered.update(key, pack_index(number * PLACES))
        return number

    def exempt(self, vip: Address, port: int) -> None:
        """Leave one port of a VIP to the kernel though all others are steered. Raises BpfError."""
        self._steered.update(pack_key(vip, port), pack_index(EXEMPT))

    def keep_only(self, keys: set[tuple[Address, int]]) -> None:
        """Steer no others than these VIPs and ports. Raises BpfError."""
        kept = {pack_key(*key) for key in keys}
        for key in self._steered.read_keys():
            if key not in kept:
                number = self._number(key)
                self._steered.delete(key)
                if number is not None:
                    self.clear(number)

    def cookies(self, number: int) -> dict[int, int]:
        """Return the socket cookie (SO_COOKIE) of each open listener, by place."""
        found = {place: self._targets.lookup(_index(number, place)) for place in range(PLACES)}
        return {place: int.from_bytes(cookie, "little") for place, cookie in found.items() if cookie}

    def put(self, number: int, place: int, fd: int) -> None:
        """Give a place to a listener, of which `fd` is a descriptor. Raises BpfError."""
        self._targets.update(_index(number, place), fd.to_bytes(8, "little"))

    def remove(self, number: int, place: int) -> None:
        """Take a listener out; it stays open."""
        self._targets.delete(_index(number, place))

    def clear(self, number: int) -> None:
        """Take all listeners of a VIP's port out. Raises BpfError."""
        for place in self.cookies(number):
            self.remove(number, place)

    def pins(self, folder: Path) -> dict[Path, int]:
        """Return their descriptors by pin in a folder."""
        return {folder / name: one.fd for name, one in self._pinned.items()}

    def map_ids(self) -> frozenset[int]:
        """Return the kernel's ids of the maps."""
        return frozenset((self._steered.id(), self._targets.id()))

    def close(self) -> None:
        """Close the descriptors; the pins live on."""
        self._steered.close()
        self._targets.close()

    def _number(self, key: bytes) -> int | None:
        """Return the number of a key's places; None if it has none."""
        first = self._steered.lookup(key)
        number = int.from_bytes(first, "little") // PLACES if first else ENTRIES
        return number if number < ENTRIES else None

    def _free_number(self) -> int:
        used = {self._number(key) for key in self._steered.read_keys()}
        return next(number for number in range(ENTRIES) if number not in used)


def _index(number: int, place: int) -> bytes:
    return pack_index(number * PLACES + place)
