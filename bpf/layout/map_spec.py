# SPDX-License-Identifier: Apache-2.0
"""How the maps of maps.h are made: their kinds, sizes and flags, for tables of so many rows.

What the maps hold is defined by the other modules of this folder.
"""

import hashlib
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final

from bpf.layout import limits
from bpf.layout.c_struct import CStruct
from bpf.layout.conf import CONF_STRUCT
from bpf.layout.counter import STATS_STRUCT, Counter
from bpf.layout.echo import ECHO_STATE_STRUCT
from bpf.layout.fragment import FIRST_FRAGMENT_STRUCT, FRAGMENT_KEY_STRUCT
from bpf.layout.nat import NAT_CONF_STRUCT, NAT_PARSED_SIZE, NAT_ROWS, SESSIONS_MIN
from bpf.layout.nat_backend import (
    BACKEND_LOAD_STRUCT,
    BACKEND_STRUCT,
    BACKENDS,
    NAT_CHOICES_STRUCT,
    NAT_HOP_STRUCT,
    NAT_HOPS,
    NAT_SERVICE_STRUCT,
)
from bpf.layout.node import NODE_STRUCT
from bpf.layout.prefix import PREFIX_STRUCT
from bpf.layout.row import ROW_STRUCT
from bpf.layout.sampling import SAMPLE_STRUCT, SAMPLING_STRUCT
from bpf.layout.service import SERVICE_KEY_STRUCT, SERVICE_STRUCT
from bpf.layout.service_cache import SERVICE_CACHE_STRUCT
from bpf.layout.session import (
    BUCKET_STRUCT,
    EVENT_STRUCT,
    SESSION4_STRUCT,
    SESSION6_STRUCT,
    SESSION_STRUCT,
    WAYS,
)
from bpf.layout.uplink import UPLINK_STRUCT
from bpf.layout.vlan import VLAN_SET_STRUCT

STRUCTS: Final[tuple[CStruct, ...]] = (
    CONF_STRUCT, UPLINK_STRUCT, SERVICE_KEY_STRUCT, SERVICE_STRUCT, SERVICE_CACHE_STRUCT, NODE_STRUCT, ROW_STRUCT,
    STATS_STRUCT, PREFIX_STRUCT, SAMPLING_STRUCT, SAMPLE_STRUCT, ECHO_STATE_STRUCT, FRAGMENT_KEY_STRUCT,
    FIRST_FRAGMENT_STRUCT, VLAN_SET_STRUCT,
)  # fmt: skip
"""All structs of lb.h that are in the maps."""
NAT_STRUCTS: Final[tuple[CStruct, ...]] = (
    NAT_CONF_STRUCT, NAT_SERVICE_STRUCT, NAT_CHOICES_STRUCT, BACKEND_STRUCT, BACKEND_LOAD_STRUCT, NAT_HOP_STRUCT,
    BUCKET_STRUCT, SESSION_STRUCT, SESSION4_STRUCT, SESSION6_STRUCT, EVENT_STRUCT,
)  # fmt: skip
"""The structs of nat_layout.h."""


class MapType(IntEnum):
    """The kernel's numbers (enum bpf_map_type in linux/bpf.h)."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LPM_TRIE = 11
    ARRAY_OF_MAPS = 12
    SOCKMAP = 15
    REUSEPORT_SOCKARRAY = 20
    RINGBUF = 27


MMAPABLE: Final = 1 << 10
"""BPF_F_MMAPABLE: user space may map the array into its memory (Linux 5.5)."""
NO_PREALLOC: Final = 1
"""BPF_F_NO_PREALLOC: an entry's memory is allocated when it is written; a trie requires it."""


_SAMPLES_SIZE: Final = 1 << 18
"""Bytes of the ring buffer: 1,500 samples."""
_EVENTS_SIZE: Final = 1 << 20
"""Bytes of the ring buffer of NAT: 32,768 changes of tags."""


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


@dataclass(frozen=True)
class NatShape:
    """The sizes of the maps of NAT: how many `sessions` (a power of two), and whether of IPv6 too."""

    sessions: int
    ipv6: bool = True


TAIL_CALLS: Final = MapSpec("programs", MapType.PROG_ARRAY, 4, 4, 2)
"""Where a program's tail calls lead. Each build of a program has one of its own, so it is none of `map_specs`."""


def tail_calls(count: int) -> MapSpec:
    """Return the spec of the map of so many tail calls."""
    return replace(TAIL_CALLS, entries=count)


def row_table(rows: int) -> MapSpec:
    """Return the spec of a service's rows: one `struct row` each."""
    return MapSpec("row_table", MapType.ARRAY, 4, ROW_STRUCT.size, rows, MMAPABLE)


def grace_table(rows: int) -> MapSpec:
    """Return the spec of a service's grace deadlines: for each row, u64 nanoseconds of CLOCK_MONOTONIC."""
    return MapSpec("grace_table", MapType.ARRAY, 4, 8, rows, MMAPABLE)


def map_specs(rows: int, nat: NatShape | None = None) -> tuple[MapSpec, ...]:
    """Return the specs of all maps of maps.h, for tables of that many rows; with `nat`, those of nat_layout.h too."""
    return _packet_maps(rows) + (_nat_maps(nat) if nat else ())


def _nat_maps(nat: NatShape) -> tuple[MapSpec, ...]:
    sessions6 = MapSpec("sessions6", MapType.ARRAY, 4, SESSION6_STRUCT.size, nat.sessions, MMAPABLE)
    return (
        MapSpec("nat_confs", MapType.ARRAY, 4, NAT_CONF_STRUCT.size, 1),
        MapSpec("nat_services", MapType.ARRAY, 4, NAT_SERVICE_STRUCT.size, limits.SLOTS),
        MapSpec("nat_choices", MapType.ARRAY, 4, NAT_CHOICES_STRUCT.size, limits.SLOTS),
        MapSpec("backends", MapType.ARRAY, 4, BACKEND_STRUCT.size, BACKENDS),
        MapSpec("backend_loads", MapType.ARRAY, 4, BACKEND_LOAD_STRUCT.size, BACKENDS, MMAPABLE),
        MapSpec("nat_hops", MapType.ARRAY, 4, NAT_HOP_STRUCT.size, NAT_HOPS),
        MapSpec("nat_ticks", MapType.ARRAY, 4, 8, 1),
        MapSpec("nat_pulls", MapType.ARRAY, 4, 8, NAT_ROWS, MMAPABLE),
        MapSpec("nat_parsed_packets", MapType.PERCPU_ARRAY, 4, NAT_PARSED_SIZE, 1),
        MapSpec("session_tags", MapType.ARRAY, 4, BUCKET_STRUCT.size, nat.sessions // WAYS, MMAPABLE),
        MapSpec("sessions4", MapType.ARRAY, 4, SESSION4_STRUCT.size, nat.sessions, MMAPABLE),
        *((sessions6,) if nat.ipv6 else ()),
        MapSpec("session_events", MapType.RINGBUF, 0, 0, _EVENTS_SIZE),
    )


def _packet_maps(rows: int) -> tuple[MapSpec, ...]:
    return (
        MapSpec("confs", MapType.ARRAY, 4, CONF_STRUCT.size, 1),
        MapSpec("uplinks", MapType.ARRAY, 4, UPLINK_STRUCT.size, limits.UPLINKS),
        MapSpec("vlans", MapType.ARRAY, 4, VLAN_SET_STRUCT.size, 1),
        MapSpec("services", MapType.HASH, SERVICE_KEY_STRUCT.size, SERVICE_STRUCT.size, limits.SERVICES),
        MapSpec("service_cache", MapType.ARRAY, 4, SERVICE_CACHE_STRUCT.size, limits.SERVICE_CACHE, MMAPABLE),
        MapSpec("nodes", MapType.ARRAY, 4, NODE_STRUCT.size, limits.NODES),
        MapSpec("stats", MapType.PERCPU_ARRAY, 4, STATS_STRUCT.size, limits.SLOTS),
        MapSpec("rows", MapType.ARRAY_OF_MAPS, 4, 4, limits.BANKS * limits.SLOTS, inner=row_table(rows)),
        MapSpec("grace", MapType.ARRAY_OF_MAPS, 4, 4, limits.BANKS * limits.SLOTS, inner=grace_table(rows)),
        MapSpec("joint", MapType.PERCPU_ARRAY, 4, ROW_STRUCT.size, 1),
        MapSpec("spent", MapType.PERCPU_ARRAY, 4, 8, limits.RATE_LIMITS),
        MapSpec("node_prefixes", MapType.LPM_TRIE, PREFIX_STRUCT.size, 4, limits.PREFIXES, NO_PREALLOC),
        MapSpec("node_prefix4", MapType.ARRAY, 4, 8, 1),
        MapSpec(
            "first_fragments",
            MapType.LRU_HASH,
            FRAGMENT_KEY_STRUCT.size,
            FIRST_FRAGMENT_STRUCT.size,
            limits.FIRST_FRAGMENTS,
        ),
        MapSpec("echo_state", MapType.ARRAY, 4, ECHO_STATE_STRUCT.size, 1),
        MapSpec("sampling", MapType.ARRAY, 4, SAMPLING_STRUCT.size, 1),
        MapSpec("samples", MapType.RINGBUF, 0, 0, _SAMPLES_SIZE),
        MapSpec("mss", MapType.HASH, SERVICE_KEY_STRUCT.size, 4, limits.SERVICES),
        MapSpec("denied", MapType.LPM_TRIE, PREFIX_STRUCT.size, 4, limits.PREFIXES, NO_PREALLOC),
    )


SESSION_MAPS: Final = ("session_tags", "sessions4", "sessions6")
"""The maps whose size the number of sessions decides, and no other's."""


def digest(rows: int, nat: NatShape | None = None) -> str:
    """Return a short name of this layout of the maps; it differs if any size, field or counter does, but for the number
    of sessions."""
    nat = replace(nat, sessions=SESSIONS_MIN) if nat else None
    structs = STRUCTS + (NAT_STRUCTS if nat else ())
    described: tuple[Any, ...] = (map_specs(rows, nat), structs, [counter.name for counter in Counter])
    return hashlib.sha256(repr(described).encode()).hexdigest()[:12]
