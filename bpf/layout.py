# SPDX-License-Identifier: Apache-2.0
"""What lies in the maps: the structs and limits of lb.h as Python sees them, and the maps' sizes.

Owns encoding and decoding only. `assertions()` is compiled with the program each time, so a difference
between this file and lb.h is a compile error, not a wrong packet.
"""

import hashlib
from dataclasses import dataclass, replace
from enum import IntEnum
from ipaddress import IPv4Address
from struct import Struct
from typing import Any, Final

CHAIN: Final = 8
"""Nodes in a row; also K, the hop after which no node forwards any more."""
NODES: Final = 1024
"""Entries of the node table; index 0 means none."""
SLOTS: Final = 256
"""Tables and counter sets; slot 0 is for packets that belong to no service."""
SERVICES: Final = 4096
UPLINKS: Final = 8
ROWS_MIN: Final = 4_096
ROWS_MAX: Final = 262_144
NODE_HAS_MAC: Final = 1


class Counter(IntEnum):
    """What happens to packets; the meaning of each stands in lb.h's `enum counter`."""

    RX = 0
    RX_FORWARDED = 1
    RX_ICMP_ERROR = 2
    SKIP_NO_MAC = 3
    PASS_OTHER_MAC = 4
    PASS_OTHER = 5
    DELIVER_OWNER = 6
    DELIVER_AWAY = 7
    DELIVER_UDP = 8
    DELIVER_SOCKET = 9
    DELIVER_TIME_WAIT = 10
    DELIVER_COOKIE = 11
    DELIVER_SOLE = 12
    DELIVER_MISS = 13
    NO_MEMBER = 14
    FORWARD_FIRST = 15
    FORWARD_AGAIN = 16
    DROP_GRACE = 17
    DROP_HOPS = 18
    DROP_FORWARD_RATE = 19
    DROP_FRAGMENT = 20
    DROP_MALFORMED = 21


class Protocol(IntEnum):
    """Transport protocols a service may have, by IANA number."""

    TCP = 6
    UDP = 17


class Affinity(IntEnum):
    """What of a packet decides its row."""

    FIVE_TUPLE = 0


class Forward(IntEnum):
    """How a packet reaches the next node."""

    L2 = 0


@dataclass(frozen=True)
class Layout:
    """A C struct: its name and its fields with their `struct` formats, padding included."""

    name: str
    fields: tuple[tuple[str, str], ...]

    @property
    def codec(self) -> Struct:
        """Packs and unpacks all fields in order."""
        return Struct("=" + "".join(form for _, form in self.fields))

    @property
    def size(self) -> int:
        """Bytes."""
        return self.codec.size

    def offsets(self) -> list[tuple[str, int]]:
        """Each field's name and place in bytes."""
        forms = [form for _, form in self.fields]
        return [(name, Struct("=" + "".join(forms[:i])).size) for i, (name, _) in enumerate(self.fields)]


# Big-endian fields are bytes here ("4s", "2s"): addresses and ports lie in network order.
_CONF = Layout(
    "conf",
    (
        ("vip_filter", "Q"),
        ("hash_key", "2I"),
        ("again_cost_ns", "I"),
        ("again_burst_ns", "I"),
        ("self", "H"),
        ("self_tag", "H"),
        ("pad", "4x"),
    ),
)
_UPLINK = Layout("uplink", (("mac", "6s"), ("redirect", "H"), ("ifindex", "I")))
_SERVICE_KEY = Layout("service_key", (("vip", "4s"), ("port", "2s"), ("protocol", "B"), ("pad", "x")))
_SERVICE = Layout("service", (("slot", "I"), ("up", "B"), ("affinity", "B"), ("forward", "B"), ("pad", "x")))
_NODE = Layout("node", (("mac", "6s"), ("tag", "H"), ("address", "4s"), ("flags", "I")))
_ROW = Layout("row", (("node", f"{CHAIN}H"),))
_STATS = Layout("stats", (("count", f"{len(Counter)}Q"),))
LAYOUTS: Final = (_CONF, _UPLINK, _SERVICE_KEY, _SERVICE, _NODE, _ROW, _STATS)


@dataclass(frozen=True)
class NodeConf:
    """What the program knows of the node it runs on.

    `self_index` is the node's own place in the node table and `self_tag` its tag. `hash_key` (two 32-bit
    words) is the cluster's secret, the same on all nodes. Forwards with hop >= 2 are held to `again_per_s` a
    second on each CPU, `again_burst` of them at once; the clock moves in ticks of up to 10 ms, so a burst below
    10 ms' worth lowers the rate.
    """

    self_index: int
    self_tag: int
    hash_key: tuple[int, int]
    again_per_s: int = 200_000
    again_burst: int = 4_000

    def pack(self, vip_filter: int) -> bytes:
        """Encode as `struct conf`; `vip_filter` is derived from the services (see `flow.vip_filter`)."""
        cost_ns = max(1, 1_000_000_000 // self.again_per_s)
        burst_ns = min(cost_ns * self.again_burst, 0xFFFF_FFFF)
        return _CONF.codec.pack(vip_filter, *self.hash_key, cost_ns, burst_ns, self.self_index, self.self_tag)

    @staticmethod
    def with_vip_filter(data: bytes, vip_filter: int) -> bytes:
        """Return an encoded `struct conf` with another filter."""
        return vip_filter.to_bytes(8, "little") + data[8:]

    @classmethod
    def unpack(cls, data: bytes) -> "NodeConf | None":
        """Decode `struct conf`; None if it was never written."""
        _, key_0, key_1, cost_ns, burst_ns, index, tag = _CONF.codec.unpack(data)
        if not index:
            return None
        return cls(index, tag, (key_0, key_1), 1_000_000_000 // cost_ns, burst_ns // cost_ns)


@dataclass(frozen=True)
class UplinkEntry:
    """An interface that the program is attached to. `redirect`: XDP_TX is no way out of it (see forward.h)."""

    mac: bytes
    ifindex: int
    redirect: bool = False

    def pack(self) -> bytes:
        """Encode as `struct uplink`."""
        return _UPLINK.codec.pack(self.mac, self.redirect, self.ifindex)

    @classmethod
    def unpack(cls, data: bytes) -> "UplinkEntry | None":
        """Decode `struct uplink`; None if it was never written."""
        mac, redirect, ifindex = _UPLINK.codec.unpack(data)
        return cls(mac, ifindex, bool(redirect)) if ifindex else None


@dataclass(frozen=True, order=True)
class ServiceKey:
    """VIP, protocol and port of a service; port 0 is any port."""

    vip: IPv4Address
    protocol: Protocol
    port: int

    def pack(self) -> bytes:
        """Encode as `struct service_key`."""
        return _SERVICE_KEY.codec.pack(self.vip.packed, self.port.to_bytes(2, "big"), self.protocol)

    def any_port(self) -> "ServiceKey":
        """Return the key that stands for all ports of the same VIP and protocol."""
        return replace(self, port=0)

    @classmethod
    def unpack(cls, data: bytes) -> "ServiceKey":
        """Decode `struct service_key`."""
        vip, port, protocol = _SERVICE_KEY.codec.unpack(data)
        return cls(IPv4Address(vip), Protocol(protocol), int.from_bytes(port, "big"))


@dataclass(frozen=True)
class ServiceEntry:
    """Where a service's table and counters lie (`slot`, 1 to SLOTS - 1) and how this node serves it.

    `up`: this node takes new connections of it that were forwarded to it.
    """

    slot: int
    up: bool
    affinity: Affinity = Affinity.FIVE_TUPLE
    forward: Forward = Forward.L2

    def pack(self) -> bytes:
        """Encode as `struct service`."""
        return _SERVICE.codec.pack(self.slot, self.up, self.affinity, self.forward)

    @classmethod
    def unpack(cls, data: bytes) -> "ServiceEntry":
        """Decode `struct service`."""
        slot, up, affinity, forward = _SERVICE.codec.unpack(data)
        return cls(slot, bool(up), Affinity(affinity), Forward(forward))


@dataclass(frozen=True)
class NodeEntry:
    """A node as a next hop. `mac` is None until it was known once; then the last known one stays."""

    address: IPv4Address
    tag: int
    mac: bytes | None

    def pack(self) -> bytes:
        """Encode as `struct node`."""
        mac = self.mac or bytes(6)
        return _NODE.codec.pack(mac, self.tag, self.address.packed, NODE_HAS_MAC if self.mac else 0)

    @classmethod
    def unpack(cls, data: bytes) -> "NodeEntry | None":
        """Decode `struct node`; None if the place is free."""
        mac, tag, address, flags = _NODE.codec.unpack(data)
        if address == bytes(4):
            return None
        return cls(IPv4Address(address), tag, mac if flags & NODE_HAS_MAC else None)


def unpack_stats(data: bytes) -> list[int]:
    """Decode `struct stats`: the counters in order."""
    return list(_STATS.codec.unpack(data))


class MapType(IntEnum):
    """The kernel's numbers (enum bpf_map_type in linux/bpf.h)."""

    HASH = 1
    ARRAY = 2
    PERCPU_ARRAY = 6
    ARRAY_OF_MAPS = 12


MMAPABLE: Final = 1 << 10
"""BPF_F_MMAPABLE: user space may map the array into its memory (Linux 5.5)."""


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
    return MapSpec("row_table", MapType.ARRAY, 4, _ROW.size, rows, MMAPABLE)


def grace_table(rows: int) -> MapSpec:
    """A service's grace deadlines: u64 nanoseconds of CLOCK_MONOTONIC for each row."""
    return MapSpec("grace_table", MapType.ARRAY, 4, 8, rows, MMAPABLE)


def map_specs(rows: int) -> tuple[MapSpec, ...]:
    """Return all maps of maps.h, for tables of that many rows."""
    return (
        MapSpec("confs", MapType.ARRAY, 4, _CONF.size, 1),
        MapSpec("uplinks", MapType.ARRAY, 4, _UPLINK.size, UPLINKS),
        MapSpec("services", MapType.HASH, _SERVICE_KEY.size, _SERVICE.size, SERVICES),
        MapSpec("nodes", MapType.ARRAY, 4, _NODE.size, NODES),
        MapSpec("stats", MapType.PERCPU_ARRAY, 4, _STATS.size, SLOTS),
        MapSpec("rows", MapType.ARRAY_OF_MAPS, 4, 4, SLOTS, inner=row_table(rows)),
        MapSpec("grace", MapType.ARRAY_OF_MAPS, 4, 4, SLOTS, inner=grace_table(rows)),
        MapSpec("again", MapType.PERCPU_ARRAY, 4, 8, 1),
    )


def digest(rows: int) -> str:
    """Name this layout of the maps: another one if any size, field or counter differs."""
    described: tuple[Any, ...] = (map_specs(rows), LAYOUTS, [counter.name for counter in Counter])
    return hashlib.sha256(repr(described).encode()).hexdigest()[:12]


def assertions() -> str:
    """Return the C assertions that hold exactly if lb.h agrees with this file."""
    checks = [f"sizeof(struct {layout.name}) == {layout.size}" for layout in LAYOUTS]
    for layout in LAYOUTS:
        checks += [f"__builtin_offsetof(struct {layout.name}, {field}) == {at}" for field, at in layout.offsets()]
    checks += [f"{counter.name} == {counter.value}" for counter in Counter]
    checks += [f"COUNTERS == {len(Counter)}", f"NODE_HAS_MAC == {NODE_HAS_MAC}"]
    checks += [f"AFFINITY_{affinity.name} == {affinity.value}" for affinity in Affinity]
    checks += [f"FORWARD_BY_{forward.name} == {forward.value}" for forward in Forward]
    for limit in ("CHAIN", "NODES", "SLOTS", "SERVICES", "UPLINKS"):
        checks.append(f"{limit} == {globals()[limit]}")
    return "".join(f'_Static_assert({check}, "layout.py and lb.h disagree");\n' for check in checks)
