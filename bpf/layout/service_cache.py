# SPDX-License-Identifier: Apache-2.0
"""An entry of the array in front of the services' map, and its place there: `struct cached_service`."""

from typing import Final

from bpf.layout.address import GOLDEN, WORD, fold_address
from bpf.layout.c_struct import CStruct
from bpf.layout.service import ServiceKey

SERVICE_CACHE_STRUCT: Final = CStruct("cached_service", (("service", "8s"), ("key", "20s"), ("crowded", "I")))


def cache_place(key: ServiceKey) -> int:
    """Return a service's place in the array (SERVICE_CACHE entries), as service.h computes it."""
    port = int.from_bytes(key.port.to_bytes(2, "big"), "little")
    kind = port | (key.protocol or 0) << 16 | key.vip.version << 24
    return (fold_address(key.vip) * GOLDEN + kind * 0x846C_A68B & WORD) >> 20
