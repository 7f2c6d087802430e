# SPDX-License-Identifier: Apache-2.0
"""What the agent and steer.c share: which VIPs and ports are steered, and the listeners that get their connections."""

import struct
from typing import Final

from bpf.layout.address import Address, pack_address
from bpf.layout.map_spec import MapSpec, MapType

PLACES: Final = 16
"""Listeners of one VIP and port: the first that is open gets the connection."""
ENTRIES: Final = 256
"""VIPs and ports, those that are exempt included; a configuration has 250 services at most."""
EXEMPT: Final = ENTRIES * PLACES
"""Beyond all places: the kernel finds a listener as without the program."""
_KEY: Final = struct.Struct("=16sI")

STEERED: Final = MapSpec("steered", MapType.HASH, _KEY.size, 4, ENTRIES)
"""By VIP and port, 0 for any: the first of its places."""
TARGETS: Final = MapSpec("targets", MapType.SOCKMAP, 4, 8, ENTRIES * PLACES)
"""The kernel removes a listener that is closed."""

MAP_SPECS: Final = (STEERED, TARGETS)


def pack_key(vip: Address, port: int) -> bytes:
    """Encode a VIP with its port, 0 for any."""
    return _KEY.pack(pack_address(vip), port)
