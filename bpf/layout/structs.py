# SPDX-License-Identifier: Apache-2.0
"""What lies in the maps: the structs and limits of lb.h as Python sees them.

Owns encoding and decoding only; how the maps are made is map_spec.py's. `mapspec.assertions()` is compiled with the
program each time, so a difference between this file and lb.h is a compile error, not a wrong packet.
"""

import functools
import hashlib
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from struct import Struct
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

CHAIN: Final = 8
"""Nodes in a row; also K, the hop after which no node forwards any more."""
NODES: Final = 1024
"""Entries of the node table; index 0 means none."""
SLOTS: Final = 256
"""Tables and counter sets; slot 0 is for packets that belong to no service."""
BANKS: Final = 2
"""Epochs that a node may look into at once; each has a table of every service."""
JOINED_PLACES: Final = 7
"""Taken of the two rows of a packet, if there are two."""
SERVICES: Final = 4096
SERVICE_CACHE: Final = 4096
"""Entries of the array in front of the services' map; a power of two."""
UPLINKS: Final = 8
PREFIXES: Final = 65_536
"""Entries of the deny list, and of the list of node prefixes."""
RATE_LIMITS: Final = 2
SAMPLE_BYTES: Final = 128
"""Of a sampled frame, at most."""
KEY_WORDS: Final = 10
KEY_SIZE: Final = 16
"""Bytes of the cluster's secret."""
ROWS_MIN: Final = 4_096
ROWS_MAX: Final = 262_144
NODE_HAS_MAC: Final = 1
NODE_ON_LINK: Final = 2
NODE_OUTER_6: Final = 4


class Counter(IntEnum):
    """What happens to packets; the meaning of each stands in lb.h's `enum counter`."""

    RX = 0
    RX_FORWARDED = 1
    RX_TUNNEL = 2
    RX_ICMP_ERROR = 3
    SKIP_NO_MAC = 4
    PASS_OTHER_MAC = 5
    PASS_NO_SERVICE = 6
    PASS_FOREIGN_TUNNEL = 7
    DELIVER_OWNER = 8
    DELIVER_FORWARDED_SYN = 9
    DELIVER_UDP = 10
    DELIVER_FRAGMENT = 11
    DELIVER_SOCKET = 12
    DELIVER_TIME_WAIT = 13
    DELIVER_SYN_COOKIE = 14
    DELIVER_ONLY_NODE = 15
    DELIVER_CHAIN_END = 16
    PASS_NO_MEMBER = 17
    FORWARD_FIRST = 18
    FORWARD_AGAIN = 19
    REPLY_TOO_BIG = 20
    DROP_GRACE = 21
    DROP_HOP_LIMIT = 22
    DROP_RATE_LIMIT = 23
    DROP_FRAGMENT = 24
    DROP_MALFORMED = 25
    DROP_IPV6_HEADERS = 26
    DROP_LAND = 27
    DROP_MARTIAN = 28
    DROP_DENIED = 29
    DROP_NO_MEMBER = 30
    DROP_TOO_BIG = 31
    DROP_NO_HEADROOM = 32


class Protocol(IntEnum):
    """Transport protocols a service may have, by IANA number."""

    TCP = 6
    UDP = 17


class Affinity(IntEnum):
    """What of a packet decides its row: client address and port, VIP and its port; or without the client's port;
    or only the two addresses."""

    FIVE_TUPLE = 0
    THREE_TUPLE = 1
    TWO_TUPLE = 2


class Forward(IntEnum):
    """How a packet reaches the next node: by rewriting MACs, or in a tunnel (GUE is variant 1, UDP port 6080)."""

    L2 = 0
    IPIP = 1
    GUE = 2


class ConfFlag(IntFlag):
    """What the program does only if told, and which ends of tunnels this node has."""

    DENY = 1
    SAMPLE = 2
    OUTER_4 = 4
    OUTER_6 = 8
    SIDE = 16
    BOTH = 32


_OWN_FLAGS: Final = ConfFlag.OUTER_4 | ConfFlag.OUTER_6 | ConfFlag.SIDE | ConfFlag.BOTH
"""Those that say what else stands in a node's conf."""


class ServiceFlag(IntFlag):
    """What else is to know of a service; the meaning of each stands in lb.h."""

    PORTS_ONLY = 1
    FRAGMENTS = 2
    DROP_NO_MEMBER = 4


@dataclass(frozen=True)
class CStruct:
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


# Big-endian fields are bytes here ("16s", "2s"): addresses and ports lie in network order.
_CONF = CStruct(
    "conf",
    (
        ("vip_filter", "Q"),
        ("hash_key", f"{BANKS * KEY_WORDS}Q"),
        ("epoch", f"{BANKS}I"),
        ("again_cost_ns", "I"),
        ("again_burst_ns", "I"),
        ("self", "H"),
        ("self_tag", "H"),
        ("flags", "I"),
        ("order", f"{JOINED_PLACES}s"),
        ("unmetered", "B"),
        ("address", "4s"),
        ("address6", "16s"),
        ("zero", "4x"),
    ),
)
_UPLINK = CStruct("uplink", (("mac", "6s"), ("redirect", "H"), ("ifindex", "I")))
_SERVICE_KEY = CStruct("service_key", (("vip", "16s"), ("port", "2s"), ("protocol", "B"), ("family", "B")))
_SERVICE = CStruct("service", (("slot", "I"), ("up", "B"), ("affinity", "B"), ("forward", "B"), ("flags", "B")))
_FRONT = CStruct("front", (("service", "8s"), ("key", "20s"), ("crowded", "I")))
_NODE = CStruct(
    "node",
    (
        ("mac", "6s"),
        ("tag", "H"),
        ("address", "4s"),
        ("flags", "I"),
        ("ifindex", "I"),
        ("source", "6s"),
        ("vlan", "H"),
        ("mtu", "H"),
        ("pad", "2x"),
        ("address6", "16s"),
    ),
)
_ROW = CStruct("row", (("node", f"{CHAIN}H"),))
_STATS = CStruct("stats", (("count", f"{len(Counter)}Q"),))
_SAMPLING = CStruct(
    "sampling",
    (("every", "I"), ("slot", "I"), ("event", "I"), ("family", "I"), ("client", "16s"), ("mask", "16s")),
)
_SAMPLE = CStruct(
    "sample",
    (
        ("time_ns", "Q"),
        ("ifindex", "I"),
        ("length", "I"),
        ("slot", "H"),
        ("event", "H"),
        ("prev", "H"),
        ("hop", "B"),
        ("kept", "B"),
        ("bytes", f"{SAMPLE_BYTES}s"),
    ),
)
_PREFIX = CStruct("prefix", (("length", "I"), ("family", "I"), ("address", "16s")))
LAYOUTS: Final = (_CONF, _UPLINK, _SERVICE_KEY, _SERVICE, _FRONT, _NODE, _ROW, _STATS, _PREFIX, _SAMPLING, _SAMPLE)


def struct_of(name: str) -> CStruct:
    """Return a struct of lb.h."""
    return next(layout for layout in LAYOUTS if layout.name == name)


def size_of(name: str) -> int:
    """Return the bytes of a struct of lb.h."""
    return struct_of(name).size


def address_words(address: Address | None) -> bytes:
    """An address as the maps hold it: 16 bytes, an IPv4 address in the first four; zeros for none."""
    return address.packed.ljust(16, b"\0") if address else bytes(16)


def _address(family: int, data: bytes) -> Address:
    return IPv4Address(data[:4]) if family == 4 else IPv6Address(data)


@functools.cache
def key_words(hash_key: bytes) -> tuple[int, ...]:
    """Return the flow hash's 64-bit words for a cluster's secret of KEY_SIZE bytes: it, then what derives from it."""
    if len(hash_key) != KEY_SIZE:
        raise ValueError(f"hash_key: {len(hash_key)} bytes given, {KEY_SIZE} wanted")
    derived = hashlib.shake_256(b"anylb flow hash" + hash_key).digest(8 * KEY_WORDS - KEY_SIZE)
    return Struct(f"<{KEY_WORDS}Q").unpack(hash_key + derived)


@dataclass(frozen=True)
class OtherEpoch:
    """The epoch whose rows are looked into beside those that new flows go by; its tables are on the other side.

    `alternating`: its places take turns with the first's; else they come after them. See pick.h.
    """

    hash_key: bytes
    epoch: int = 0
    alternating: bool = False

    @property
    def order(self) -> bytes:
        """Places of the first row, and CHAIN more for those of the other, in the order in which they are taken."""
        first, other = range(4), range(CHAIN, CHAIN + 3)
        if not self.alternating:
            return bytes((*first, *other))
        turns = [place for both in zip(first, (*other, None), strict=True) for place in both if place is not None]
        return bytes(turns)


@dataclass(frozen=True)
class NodeConf:
    """What the program knows of the node it runs on.

    `self_index` is the node's own place in the node table and `self_tag` its tag. `hash_key` (KEY_SIZE bytes) is
    the cluster's secret, the same on all nodes, of the epoch that new flows go by; its tables are on `side` (0 or 1),
    and `epoch` is how the agent names it. `other` is another one that is looked into too. Forwards with hop >= 2 (where
    two epochs alternate: 3) are held to `again_per_s` a second on each CPU, `again_burst` of them at once; the clock
    moves in ticks of up to 10 ms, so a burst below 10 ms' worth lowers the rate. `address` and `address6` are this
    node's own ends of tunnels; None: it neither takes nor sends those.
    """

    self_index: int
    self_tag: int
    hash_key: bytes
    again_per_s: int = 200_000
    again_burst: int = 4_000
    address: IPv4Address | None = None
    address6: IPv6Address | None = None
    side: int = 0
    epoch: int = 0
    other: OtherEpoch | None = None

    def pack(self, vip_filter: int, flags: int) -> bytes:
        """Encode as `struct conf`; `vip_filter` and `flags` are derived from other tables (see maps.py)."""
        cost_ns = max(1, 1_000_000_000 // self.again_per_s)
        burst_ns = min(cost_ns * self.again_burst, 0xFFFF_FFFF)
        sides = [(key_words(self.hash_key), self.epoch), ((0,) * KEY_WORDS, 0)]
        order, unmetered = bytes(JOINED_PLACES), 1
        flags &= ~_OWN_FLAGS
        flags |= bool(self.address) * ConfFlag.OUTER_4 | bool(self.address6) * ConfFlag.OUTER_6
        flags |= self.side * ConfFlag.SIDE
        if self.other:
            sides[1] = key_words(self.other.hash_key), self.other.epoch
            order, unmetered = self.other.order, 2 if self.other.alternating else 1
            flags |= ConfFlag.BOTH
        (words, epoch), (more, other) = sides[:: -1 if self.side else 1]
        return _CONF.codec.pack(
            vip_filter, *words, *more, epoch, other, cost_ns, burst_ns, self.self_index, self.self_tag, flags, order,
            unmetered, address_words(self.address)[:4], address_words(self.address6),
        )  # fmt: skip

    @classmethod
    def unpack(cls, data: bytes) -> "NodeConf | None":
        """Decode `struct conf`; None if it was never written."""
        fields = _CONF.codec.unpack(data)
        at = 1 + BANKS * KEY_WORDS + BANKS
        cost_ns, burst_ns, index, tag, flags, _, unmetered, address, address6 = fields[at:]
        if not index:
            return None
        keys = [Struct("<2Q").pack(*fields[1 + side * KEY_WORDS :][:2]) for side in range(BANKS)]
        side = int(bool(flags & ConfFlag.SIDE))
        epochs = fields[at - BANKS : at]
        other = OtherEpoch(keys[1 - side], epochs[1 - side], unmetered == 2) if flags & ConfFlag.BOTH else None
        return cls(
            index, tag, keys[side], 1_000_000_000 // cost_ns, burst_ns // cost_ns,
            IPv4Address(address) if any(address) else None, IPv6Address(address6) if any(address6) else None,
            side, epochs[side], other,
        )  # fmt: skip


def conf_derived(conf: bytes) -> tuple[int, ConfFlag]:
    """Return the VIP filter and the flags of an encoded `struct conf`."""
    at = dict(_CONF.offsets())["flags"]
    return int.from_bytes(conf[:8], "little"), ConfFlag(int.from_bytes(conf[at : at + 4], "little"))


def with_derived(conf: bytes, vip_filter: int, flags: ConfFlag) -> bytes:
    """Return an encoded `struct conf` with another VIP filter and other flags."""
    at = dict(_CONF.offsets())["flags"]
    return vip_filter.to_bytes(8, "little") + conf[8:at] + flags.to_bytes(4, "little") + conf[at + 4 :]


def with_side(conf: bytes, side: int, source: bytes) -> bytes:
    """Return an encoded `struct conf` whose key and epoch of a side are those of another one."""
    offsets = dict(_CONF.offsets())
    for name, size in (("hash_key", 8 * KEY_WORDS), ("epoch", 4)):
        at = offsets[name] + side * size
        conf = conf[:at] + source[at : at + size] + conf[at + size :]
    return conf


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


@dataclass(frozen=True)
class ServiceKey:
    """VIP, protocol and port of a service; port 0 is any port. `protocol` None (port 0) stands for the VIP itself."""

    vip: Address
    protocol: Protocol | None
    port: int

    def pack(self) -> bytes:
        """Encode as `struct service_key`."""
        port = self.port.to_bytes(2, "big")
        return _SERVICE_KEY.codec.pack(address_words(self.vip), port, self.protocol or 0, self.vip.version)

    def any_port(self) -> "ServiceKey":
        """Return the key that stands for all ports of the same VIP and protocol."""
        return replace(self, port=0)

    def of_vip(self) -> "ServiceKey":
        """Return the key that stands for the VIP."""
        return ServiceKey(self.vip, None, 0)

    @classmethod
    def unpack(cls, data: bytes) -> "ServiceKey":
        """Decode `struct service_key`."""
        vip, port, protocol, family = _SERVICE_KEY.codec.unpack(data)
        return cls(_address(family, vip), Protocol(protocol) if protocol else None, int.from_bytes(port, "big"))


@dataclass(frozen=True)
class ServiceEntry:
    """Where a service's table and counters lie (`slot`, 1 to SLOTS - 1) and how this node serves it.

    `up`: this node takes new connections of it that were forwarded to it. `drop_no_member`: while a row is empty its
    packets are dropped (`when_no_member: drop`), not passed to the kernel.
    """

    slot: int
    up: bool
    affinity: Affinity = Affinity.FIVE_TUPLE
    forward: Forward = Forward.L2
    drop_no_member: bool = False

    def pack(self, flags: int = 0) -> bytes:
        """Encode as `struct service`; `flags` says what the entry alone does not know."""
        if self.drop_no_member:
            flags |= ServiceFlag.DROP_NO_MEMBER
        return _SERVICE.codec.pack(self.slot, self.up, self.affinity, self.forward, flags)

    @classmethod
    def unpack(cls, data: bytes) -> "ServiceEntry | None":
        """Decode `struct service`; None if it stands for no service of its own."""
        slot, up, affinity, forward, flags = _SERVICE.codec.unpack(data)
        if flags & ServiceFlag.PORTS_ONLY:
            return None
        drop = bool(flags & ServiceFlag.DROP_NO_MEMBER)
        return cls(slot, bool(up), Affinity(affinity), Forward(forward), drop)


@dataclass(frozen=True)
class NodeEntry:
    """A node as a next hop, and the way there.

    `mac` is the node's own if it is `on_link`, else the router's on the way (then `forward: l2` cannot reach it); None
    until it was known once; then the last known one stays. Tunnels go to `address`, or with `outer6` to `address6`.
    `ifindex` is the interface to leave by and `source` that interface's MAC; 0 and None: the way the packet came.
    `vlan` (0: none) is the tag of frames that carry tunnels. `mtu` is that of the way, in bytes of an IP packet.
    """

    address: IPv4Address
    tag: int
    mac: bytes | None
    on_link: bool = True
    address6: IPv6Address | None = None
    outer6: bool = False
    ifindex: int = 0
    source: bytes | None = None
    vlan: int = 0
    mtu: int = 1500

    def pack(self) -> bytes:
        """Encode as `struct node`."""
        if self.outer6 and self.address6 is None:
            raise ValueError(f"node {self.address}: outer6 wants an address6")
        flags = (self.mac is not None) * NODE_HAS_MAC | self.on_link * NODE_ON_LINK | self.outer6 * NODE_OUTER_6
        return _NODE.codec.pack(
            self.mac or bytes(6), self.tag, self.address.packed, flags, self.ifindex, self.source or bytes(6),
            self.vlan, min(self.mtu, 0xFFFF), address_words(self.address6),
        )  # fmt: skip

    @classmethod
    def unpack(cls, data: bytes) -> "NodeEntry | None":
        """Decode `struct node`; None if the place is free."""
        mac, tag, address, flags, ifindex, source, vlan, mtu, address6 = _NODE.codec.unpack(data)
        if address == bytes(4):
            return None
        return cls(
            IPv4Address(address), tag, mac if flags & NODE_HAS_MAC else None, bool(flags & NODE_ON_LINK),
            IPv6Address(address6) if any(address6) else None, bool(flags & NODE_OUTER_6), ifindex,
            source if any(source) else None, vlan, mtu,
        )  # fmt: skip


def pack_prefix(prefix: Network) -> bytes:
    """Encode as `struct prefix`."""
    return _PREFIX.codec.pack(32 + prefix.prefixlen, prefix.version, address_words(prefix.network_address))


def unpack_prefix(data: bytes) -> Network:
    """Decode `struct prefix`."""
    length, family, address = _PREFIX.codec.unpack(data)
    network = _address(family, address)
    return IPv4Network((network, length - 32)) if family == 4 else IPv6Network((network, length - 32))


def unpack_stats(data: bytes) -> list[int]:
    """Decode `struct stats`: the counters in order."""
    return list(_STATS.codec.unpack(data))
