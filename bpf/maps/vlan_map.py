# SPDX-License-Identifier: Apache-2.0
"""The VLANs whose frames are the program's."""

from collections.abc import Collection

from bpf.layout.vlan import pack_vlans, unpack_vlans
from bpf.maps.pinned_map import PinnedMap


class VlanMap:
    """The VLANs that the configuration names, an array of one entry."""

    def __init__(self, vlans: PinnedMap) -> None:
        self._vlans = vlans

    def write(self, vlans: Collection[int]) -> None:
        """Handle the frames of these VLANs, and of no others, from now on. Before, none with a tag is handled."""
        self._vlans.set_entry(0, pack_vlans(vlans))

    def read(self) -> frozenset[int]:
        """Return what `write` wrote."""
        return unpack_vlans(self._vlans.entry(0))
