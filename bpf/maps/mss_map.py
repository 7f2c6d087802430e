# SPDX-License-Identifier: Apache-2.0
"""The limits of the MSS clamp."""

from collections.abc import Mapping

from bpf.layout.service import ServiceKey
from bpf.maps.pinned_map import PinnedMap, pack_index


class MssMap:
    """The largest MSS that a service's SYN-ACKs may carry, in bytes."""

    def __init__(self, mss: PinnedMap) -> None:
        self._mss = mss

    def write(self, limits: Mapping[ServiceKey, int]) -> None:
        """Write the limits; SYN-ACKs of all other services are not modified."""
        present = self.read()
        for key in present.keys() - limits.keys():
            self._mss.delete(key.pack())
        for key, limit in limits.items():
            if present.get(key) != limit:
                self._mss.update(key.pack(), pack_index(limit))

    def read(self) -> dict[ServiceKey, int]:
        """Return the limits."""
        found = {key: self._mss.lookup(key) for key in self._mss.read_keys()}
        return {ServiceKey.unpack(key): int.from_bytes(value, "little") for key, value in found.items() if value}
