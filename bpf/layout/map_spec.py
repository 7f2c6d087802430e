# SPDX-License-Identifier: Apache-2.0
"""How the maps of maps.h are made: their kinds, sizes and flags, for tables of so many rows.

Owns the sizes and the check that C agrees; what lies in the maps is structs.py's.
"""

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from bpf.layout import structs as layout
from bpf.layout.structs import Affinity, ConfFlag, Counter, Forward, ServiceFlag, size_of


class MapType(IntEnum):
    """The kernel's numbers (enum bpf_map_type in linux/bpf.h)."""

    HASH = 1
    ARRAY = 2
    PERCPU_ARRAY = 6
    LPM_TRIE = 11
    ARRAY_OF_MAPS = 12
    RINGBUF = 27


MMAPABLE: Final = 1 << 10
"""BPF_F_MMAPABLE: user space may map the array into its memory (Linux 5.5)."""
NO_PREALLOC: Final = 1
"""BPF_F_NO_PREALLOC: an entry's memory is taken when it is written; a trie has no other way."""


_SAMPLES_SIZE: Final = 1 << 18
"""Bytes of the ring buffer: 1,500 samples."""


@dataclass(frozen=True)
class MapSpec:
    """How a map is made; `name` is also its pin. `inner` describes what an ARRAY_OF_MAPS holds."""

    name: str
    type: MapType
    key_size: int
    value_size: int
    entries: int
    flags: int = 0
    inner: "MapSpec | None" = None


def row_table(rows: int) -> MapSpec:
    """A service's table: one `struct row` for each row."""
    return MapSpec("row_table", MapType.ARRAY, 4, size_of("row"), rows, MMAPABLE)


def grace_table(rows: int) -> MapSpec:
    """A service's grace deadlines: u64 nanoseconds of CLOCK_MONOTONIC for each row."""
    return MapSpec("grace_table", MapType.ARRAY, 4, 8, rows, MMAPABLE)


def map_specs(rows: int) -> tuple[MapSpec, ...]:
    """Return all maps of maps.h, for tables of that many rows."""
    return (
        MapSpec("confs", MapType.ARRAY, 4, size_of("conf"), 1),
        MapSpec("uplinks", MapType.ARRAY, 4, size_of("uplink"), layout.UPLINKS),
        MapSpec("services", MapType.HASH, size_of("service_key"), size_of("service"), layout.SERVICES),
        MapSpec("front", MapType.ARRAY, 4, size_of("front"), layout.SERVICE_CACHE, MMAPABLE),
        MapSpec("nodes", MapType.ARRAY, 4, size_of("node"), layout.NODES),
        MapSpec("stats", MapType.PERCPU_ARRAY, 4, size_of("stats"), layout.SLOTS),
        MapSpec("rows", MapType.ARRAY_OF_MAPS, 4, 4, layout.BANKS * layout.SLOTS, inner=row_table(rows)),
        MapSpec("grace", MapType.ARRAY_OF_MAPS, 4, 4, layout.BANKS * layout.SLOTS, inner=grace_table(rows)),
        MapSpec("joint", MapType.PERCPU_ARRAY, 4, size_of("row"), 1),
        MapSpec("spent", MapType.PERCPU_ARRAY, 4, 8, layout.RATE_LIMITS),
        MapSpec("node_prefixes", MapType.LPM_TRIE, size_of("prefix"), 4, layout.PREFIXES, NO_PREALLOC),
        MapSpec("sampling", MapType.ARRAY, 4, size_of("sampling"), 1),
        MapSpec("samples", MapType.RINGBUF, 0, 0, _SAMPLES_SIZE),
        MapSpec("mss", MapType.HASH, size_of("service_key"), 4, layout.SERVICES),
        MapSpec("denied", MapType.LPM_TRIE, size_of("prefix"), 4, layout.PREFIXES, NO_PREALLOC),
    )


def digest(rows: int) -> str:
    """Name this layout of the maps: another one if any size, field or counter differs."""
    described: tuple[Any, ...] = (map_specs(rows), layout.LAYOUTS, [counter.name for counter in Counter])
    return hashlib.sha256(repr(described).encode()).hexdigest()[:12]


def assertions() -> str:
    """Return the C assertions that hold exactly if lb.h agrees with this file."""
    checks = [f"sizeof(struct {struct.name}) == {struct.size}" for struct in layout.LAYOUTS]
    for struct in layout.LAYOUTS:
        checks += [f"__builtin_offsetof(struct {struct.name}, {field}) == {at}" for field, at in struct.offsets()]
    checks += [f"{counter.name} == {counter.value}" for counter in Counter]
    checks.append(f"COUNTERS == {len(Counter)}")
    checks += [f"CONF_{flag.name} == {flag.value}" for flag in ConfFlag]
    checks += [f"SERVICE_{flag.name} == {flag.value}" for flag in ServiceFlag]
    checks += [f"AFFINITY_{affinity.name} == {affinity.value}" for affinity in Affinity]
    checks += [f"FORWARD_BY_{forward.name} == {forward.value}" for forward in Forward]
    limits = (
        "CHAIN",
        "NODES",
        "SLOTS",
        "BANKS",
        "JOINED_PLACES",
        "SERVICES",
        "SERVICE_CACHE",
        "UPLINKS",
        "PREFIXES",
        "KEY_WORDS",
        "RATE_LIMITS",
        "SAMPLE_BYTES",
    )
    for constant in (*limits, "NODE_HAS_MAC", "NODE_ON_LINK", "NODE_OUTER_6"):
        checks.append(f"{constant} == {getattr(layout, constant)}")
    return "".join(f'_Static_assert({check}, "structs.py and lb.h disagree");\n' for check in checks)
