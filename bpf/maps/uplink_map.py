# SPDX-License-Identifier: Apache-2.0
"""The interfaces that the program is attached to."""

from bpf.layout.uplink import UplinkEntry
from bpf.maps.pinned_map import PinnedMap


class UplinkMap:
    """The uplinks, by their place in the configured list. Only the process that reads them writes them."""

    def __init__(self, uplinks: PinnedMap) -> None:
        self._uplinks = uplinks
        self._known: dict[int, UplinkEntry] = {}
        """What is written: an agent reads it for each question of its echo."""

    def write(self, place: int, uplink: UplinkEntry) -> None:
        """Write an interface. Needed again when its MAC changes: frames to any other MAC pass unmodified."""
        self._uplinks.set_entry(place, uplink.pack())
        self._known[place] = uplink

    def read(self, place: int) -> UplinkEntry | None:
        """Return what `write` wrote; None before that."""
        if place not in self._known and (found := UplinkEntry.unpack(self._uplinks.entry(place))):
            self._known[place] = found
        return self._known.get(place)
