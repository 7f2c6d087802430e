# SPDX-License-Identifier: Apache-2.0
"""The array in front of the services' map: the same entries, placed by a hash that the program computes inline.

Owns the order of writes: the program reads while they are made. An entry's last 8 bytes hold what tells its key (port,
protocol, family) and `crowded`, which sends the program to the map. They are written at once: first as "crowded" with
no key, then the rest, then they again.
"""

import mmap
import struct
from collections.abc import Mapping
from typing import Final

from bpf.layout.limits import SERVICE_CACHE
from bpf.layout.service import ServiceKey
from bpf.layout.service_cache import SERVICE_CACHE_STRUCT, cache_place

_SIZE: Final = SERVICE_CACHE_STRUCT.size
_TELLING: Final = _SIZE - 8
_CROWDED: Final = 1 << 32


class ServiceCache:
    """The mapped array. `set_place` is to follow each change of the services' map."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, SERVICE_CACHE * _SIZE)

    def close(self) -> None:
        """Unmap it."""
        self._memory.close()

    def refresh(self, changed: ServiceKey, services: Mapping[ServiceKey, bytes]) -> None:
        """Make the entry where `changed` belongs agree with the map, which holds `services` (encoded)."""
        place = cache_place(changed)
        here = sorted((key for key in services if cache_place(key) == place), key=lambda key: key.pack())
        entry = bytes(_SIZE)
        if here:
            # Ports before what stands for any: more packets ask for those.
            first = next((key for key in here if key.port), here[0])
            entry = services[first] + first.pack() + (len(here) > 1).to_bytes(4, "little")
        at = place * _SIZE
        if self._memory[at : at + _SIZE] == entry:
            return
        telling = int.from_bytes(entry[_TELLING:], "little")
        struct.pack_into("=Q", self._memory, at + _TELLING, _CROWDED)
        self._memory[at : at + _TELLING] = entry[:_TELLING]
        struct.pack_into("=Q", self._memory, at + _TELLING, telling)
