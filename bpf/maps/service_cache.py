# SPDX-License-Identifier: Apache-2.0
"""The cache in front of the services' map: an array with the same entries, placed by a hash that is computed inline.

Owns the order of writes: the program reads while they are made. The last 8 bytes of an entry are the end of its key
(port, protocol, family) and `crowded`, which sends the program to the map. They are written at once: first `crowded`
with no key, then the rest of the entry, then the 8 bytes again.
"""

import mmap
import struct
from collections.abc import Mapping
from typing import Final

from bpf.layout.limits import SERVICE_CACHE
from bpf.layout.service import ServiceKey
from bpf.layout.service_cache import SERVICE_CACHE_STRUCT, cache_place

_SIZE: Final = SERVICE_CACHE_STRUCT.size
_KEY_END: Final = _SIZE - 8
_CROWDED: Final = 1 << 32


class ServiceCache:
    """The cache, mapped into memory. `refresh` must follow each change of the services' map."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, SERVICE_CACHE * _SIZE)

    def close(self) -> None:
        """Unmap it."""
        self._memory.close()

    def refresh(self, changed: ServiceKey, services: Mapping[ServiceKey, bytes]) -> None:
        """Write the entry at `changed`'s place for the map's contents, `services` (encoded)."""
        place = cache_place(changed)
        self._put(place, [key for key in services if cache_place(key) == place], services)

    def restore(self, services: Mapping[ServiceKey, bytes]) -> None:
        """Write every entry that does not follow from the map's contents: a process may have been killed before
        `refresh`."""
        keys: dict[int, list[ServiceKey]] = {}
        for key in services:
            keys.setdefault(cache_place(key), []).append(key)
        for place in range(SERVICE_CACHE):
            self._put(place, keys.get(place, []), services)

    def _put(self, place: int, keys: list[ServiceKey], services: Mapping[ServiceKey, bytes]) -> None:
        entry = bytes(_SIZE)
        if keys:
            here = sorted(keys, key=lambda key: key.pack())
            # A key with a port first: more packets look for those.
            first = next((key for key in here if key.port), here[0])
            entry = services[first] + first.pack() + (len(here) > 1).to_bytes(4, "little")
        at = place * _SIZE
        if self._memory[at : at + _SIZE] == entry:
            return
        key_end = int.from_bytes(entry[_KEY_END:], "little")
        struct.pack_into("=Q", self._memory, at + _KEY_END, _CROWDED)
        self._memory[at : at + _KEY_END] = entry[:_KEY_END]
        struct.pack_into("=Q", self._memory, at + _KEY_END, key_end)
