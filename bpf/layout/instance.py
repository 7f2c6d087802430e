# SPDX-License-Identifier: Apache-2.0
"""What the agent and instance.c share: the listeners of one reuseport group, and in which order they are tried.

A connection's hash leads to a cell, whose places name listeners by their slot, the first choice first. A cell is one
64-bit number, so it is written as a whole: each place is a byte, slot + 1, and 0 ends the list. Each CPU has cells of
its own, which are the same unless the policy is by CPU.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from bpf.layout.map_spec import MapSpec, MapType

SLOTS: Final = 255
"""Listeners of one group: what a byte can name beside 0."""
CELLS: Final = 256
PLACES: Final = 8

Cells = Sequence[tuple[int, ...]]
"""The slots of each cell, of one CPU."""

LISTENERS: Final = MapSpec("listeners", MapType.REUSEPORT_SOCKARRAY, 4, 8, SLOTS)
"""The kernel removes a listener that is closed."""
CHOICES: Final = MapSpec("cpu_choices", MapType.PERCPU_ARRAY, 4, 8, CELLS)
PROBES: Final = MapSpec("probes", MapType.HASH, 4, 4, 1024)
"""Health checks under way: the slot that each is for, by its source port."""
FLOWS: Final = MapSpec("flows", MapType.LRU_HASH, 4, 8, 65_536)
"""Of UDP: the slot that a flow had last, and when, by its hash."""


STEERED_LISTENERS: Final = replace(LISTENERS, type=MapType.SOCKMAP)
"""The same where steer.c finds them too: no listener can be in maps of both types."""


def map_specs(udp: bool, steered: bool = False) -> tuple[MapSpec, ...]:
    """Return the specs of a group's maps."""
    return (STEERED_LISTENERS if steered else LISTENERS, CHOICES, PROBES, *((FLOWS,) if udp else ()))


def pack_cell(slots: Sequence[int]) -> bytes:
    """Encode a cell; slots beyond its places are left out."""
    return bytes(slot + 1 for slot in slots[:PLACES]).ljust(PLACES, b"\0")


def unpack_cell(data: bytes) -> tuple[int, ...]:
    """Decode a cell."""
    return tuple(place - 1 for place in data.split(b"\0", 1)[0])
