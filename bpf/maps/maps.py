# SPDX-License-Identifier: Apache-2.0
"""The maps as the agent sees them: configuration, nodes, services, their tables and counters.

Owns making, opening and filling the maps. The agent decides what they hold; bpf/layout encodes it.
"""

import mmap
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from bpf.errors import BpfError
from bpf.kernel import bpf_map
from bpf.kernel.pin import open_pin, pin_object
from bpf.layout import map_spec
from bpf.layout.address import Network
from bpf.layout.conf import (
    ConfFlag,
    NodeConf,
    derived_fields,
    vip_filter,
    with_bank_of,
    with_derived_fields,
    with_one_bank,
)
from bpf.layout.counter import Counter
from bpf.layout.limits import CHAIN, NODES, PREFIXES, SLOTS
from bpf.layout.map_spec import MapSpec
from bpf.layout.node import NodeEntry
from bpf.layout.prefix import pack_prefix, unpack_prefix
from bpf.layout.sampling import SampleFilter
from bpf.layout.service import Affinity, ServiceEntry, ServiceFlag, ServiceKey
from bpf.layout.uplink import UplinkEntry
from bpf.maps.sampling import SampleReader
from bpf.maps.service_cache import ServiceCache

Rows = npt.NDArray[np.uint16]
"""Shape (R, CHAIN): indexes into the node table, owner first, 0 after the last."""
Deadlines = npt.NDArray[np.uint64]
"""Shape (R,): until when a miss of the row is dropped, in ns of CLOCK_MONOTONIC; 0 for no longer."""

_NO_SERVICE = ServiceEntry(slot=0, up=False).pack(ServiceFlag.PORTS_ONLY)
"""Stands at a VIP, and at a (VIP, protocol) whose services have ports: other packets are known to be for a VIP."""


def _index(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _table(slot: int, bank: int) -> bytes:
    """Where a service's table for the epoch on a bank lies."""
    return _index(slot + bank * SLOTS)


class Maps:
    """Open maps. The program sees each write at once."""

    def __init__(self, rows: int, fds: Mapping[str, int]) -> None:
        self.row_count = rows
        self._fds = dict(fds)
        self._specs = {spec.name: spec for spec in map_spec.map_specs(rows)}
        self._front = ServiceCache(fds["service_cache"])

    @classmethod
    def open(cls, folder: Path, rows: int) -> Self:
        """Open the maps pinned in `folder`; make and pin those that are missing.

        Raises BpfError if a pin there has another shape: it is not ours, so it is not overwritten.
        """
        fds: dict[str, int] = {}
        try:
            for spec in map_spec.map_specs(rows):
                fds[spec.name] = _open_or_make(folder / spec.name, spec)
        except BaseException:
            for fd in fds.values():
                os.close(fd)
            raise
        return cls(rows, fds)

    def close(self) -> None:
        """Close the descriptors; what is pinned lives on."""
        self._front.close()
        while self._fds:
            os.close(self._fds.popitem()[1])

    def map_ids(self) -> frozenset[int]:
        """Return the kernel's numbers of the maps."""
        return frozenset(bpf_map.map_id(fd) for fd in self._fds.values())

    def missing(self) -> list[str]:
        """Say what must still be written before packets may meet these tables; empty if nothing."""
        absent: list[str] = []
        conf = self.conf()
        if not conf:
            absent.append("the node's conf")
        elif conf.self_index not in self.nodes():
            absent.append(f"the node's own entry (index {conf.self_index})")
        first = conf.bank if conf else 0
        banks = (first, 1 - first) if conf and conf.other else (first,)
        for key, entry in self.services().items():
            for table in ("rows", "grace"):
                if any(self._lookup(table, _table(entry.slot, bank)) is None for bank in banks):
                    absent.append(f"{table} of {_words(key)}")
        return absent

    def set_conf(self, conf: NodeConf) -> None:
        """Write what the program knows of its own node.

        The program reads while this is written, a word at a time: the key of the other epoch is there before the flag
        that says so, and stays when the flag goes.
        """
        before = self._array_entry("confs", 0)
        flags = derived_fields(before)[1] & ~ConfFlag.DENY
        if self.denied():
            flags |= ConfFlag.DENY
        filter_bits = vip_filter(key.vip for key in self.services())
        data = conf.pack(filter_bits, flags)
        kept = with_bank_of(data, 1 - conf.bank, before)
        if conf.other is None:
            data = kept
        elif data != kept:
            self._update("confs", _index(0), with_one_bank(data))
        self._update("confs", _index(0), data)

    def conf(self) -> NodeConf | None:
        """Return what `set_conf` wrote; None before that."""
        return NodeConf.unpack(self._array_entry("confs", 0))

    def set_uplink(self, slot: int, uplink: UplinkEntry) -> None:
        """Write an interface's MAC: frames to any other pass untouched. Needed again when the MAC changes."""
        self._update("uplinks", _index(slot), uplink.pack())

    def uplink(self, slot: int) -> UplinkEntry | None:
        """Return what `set_uplink` wrote; None before that."""
        return UplinkEntry.unpack(self._array_entry("uplinks", slot))

    def set_node(self, index: int, node: NodeEntry | None) -> None:
        """Write a next hop (index 1 to NODES - 1), or clear it; clear one only when no row names it any more."""
        if not 0 < index < NODES:
            raise BpfError(f"node index {index} is not in 1-{NODES - 1}: too many nodes in the cluster")
        empty = bytes(self._specs["nodes"].value_size)
        self._update("nodes", _index(index), node.pack() if node else empty)

    def nodes(self) -> dict[int, NodeEntry]:
        """Return all next hops by index."""
        entries = {index: NodeEntry.unpack(self._array_entry("nodes", index)) for index in range(1, NODES)}
        return {index: entry for index, entry in entries.items() if entry}

    def set_service(self, key: ServiceKey, entry: ServiceEntry) -> None:
        """Write a service. Its packets are handled from now on, so swap its rows in before.

        The counters of a service that is new start at 0.
        """
        if not 0 < entry.slot < SLOTS:
            raise BpfError(f"service slot {entry.slot} is not in 1-{SLOTS - 1}: too many services")
        known = self.services()
        if key not in known:
            self._update("stats", _index(entry.slot), bytes(self._stats_size()))
        self._set_services({**known, key: entry})

    def del_service(self, key: ServiceKey) -> None:
        """Remove a service, if it is there: its packets pass to the kernel from now on."""
        self._set_services({other: entry for other, entry in self.services().items() if other != key})

    def services(self) -> dict[ServiceKey, ServiceEntry]:
        """Return all services."""
        found = {key: ServiceEntry.unpack(value) for key, value in self._raw_services().items()}
        return {key: entry for key, entry in found.items() if entry}

    def set_node_prefixes(self, prefixes: Iterable[Network]) -> None:
        """Write where nodes' addresses lie: tunnels from anywhere else are not opened."""
        self._set_prefixes("node_prefixes", prefixes)

    def node_prefixes(self) -> set[Network]:
        """Return what `set_node_prefixes` wrote."""
        return self._prefixes("node_prefixes")

    def set_denied(self, prefixes: Iterable[Network]) -> None:
        """Write whose packets to VIPs are dropped. It holds from the next packet on."""
        self._set_prefixes("denied", prefixes)
        self._set_flag(ConfFlag.DENY, bool(self.denied()))

    def denied(self) -> set[Network]:
        """Return the deny list."""
        return self._prefixes("denied")

    def set_mss(self, limits: Mapping[ServiceKey, int]) -> None:
        """Write the largest MSS that SYN-ACKs of these services may tell; those of others are left alone."""
        there = self.mss()
        for key in there.keys() - limits.keys():
            self._delete("mss", key.pack())
        for key, limit in limits.items():
            if there.get(key) != limit:
                self._update("mss", key.pack(), _index(limit))

    def mss(self) -> dict[ServiceKey, int]:
        """Return what `set_mss` wrote."""
        found = {key: self._lookup("mss", key) for key in self._keys("mss")}
        return {ServiceKey.unpack(key): int.from_bytes(value, "little") for key, value in found.items() if value}

    def set_sampling(self, wanted: SampleFilter | None) -> None:
        """Sample the packets that a filter asks for; None: none, which costs nothing."""
        if wanted:
            self._update("sampling", _index(0), wanted.pack())
        self._set_flag(ConfFlag.SAMPLE, wanted is not None)

    def samples(self) -> SampleReader:
        """Open the reading end of the sampled packets; one reader at a time."""
        return SampleReader(self._fds["samples"])

    def swap_rows(self, slot: int, rows: Rows, grace_until_ns: Deadlines, bank: int = 0) -> None:
        """Replace a service's whole table for the epoch on a bank: written aside, then swapped in at once.

        The deadlines come first, so that a row is never new without its grace.
        """
        self.set_grace(slot, grace_until_ns, bank)
        self._swap("rows", _table(slot, bank), rows, (self.row_count, CHAIN), np.dtype(np.uint16))

    def set_grace(self, slot: int, until_ns: Deadlines, bank: int = 0) -> None:
        """Replace a service's deadlines alone."""
        self._swap("grace", _table(slot, bank), until_ns, (self.row_count,), np.dtype(np.uint64))

    def drop_rows(self, slot: int, bank: int) -> None:
        """Give the memory of a table back, if it is there; the program must not use that bank any more."""
        for name in ("rows", "grace"):
            # Asked first: even a deletion of nothing may wait until no CPU runs a program (Linux 6.1).
            if self._lookup(name, _table(slot, bank)) is not None:
                self._delete(name, _table(slot, bank))

    def rows(self, slot: int, bank: int = 0) -> Rows | None:
        """Read a service's table back; None if it has none (CAP_SYS_ADMIN)."""
        return self._read_table("rows", _table(slot, bank), (self.row_count, CHAIN), np.dtype(np.uint16))

    def grace(self, slot: int, bank: int = 0) -> Deadlines | None:
        """Read a service's deadlines back; None if it has none (CAP_SYS_ADMIN)."""
        return self._read_table("grace", _table(slot, bank), (self.row_count,), np.dtype(np.uint64))

    def counters(self) -> dict[int, dict[str, int]]:
        """Return what was counted, summed over CPUs: slot -> name -> count. Slot 0 is no service's."""
        slots = {0} | {entry.slot for entry in self.services().values()}
        return {slot: self._counters(slot) for slot in sorted(slots)}

    def _counters(self, slot: int) -> dict[str, int]:
        data = bpf_map.lookup(self._fds["stats"], _index(slot), self._stats_size()) or b""
        per_cpu = np.frombuffer(data, np.uint64).reshape(-1, len(Counter))
        return {counter.name.lower(): int(per_cpu[:, counter].sum()) for counter in Counter}

    def _stats_size(self) -> int:
        return self._specs["stats"].value_size * bpf_map.possible_cpus()

    def _raw_services(self) -> dict[ServiceKey, bytes]:
        """The services' map as it is, with the entries that stand for a VIP or a protocol."""
        found = {key: self._lookup("services", key) for key in self._keys("services")}
        return {ServiceKey.unpack(key): value for key, value in found.items() if value}

    def _set_services(self, services: Mapping[ServiceKey, ServiceEntry]) -> None:
        """Bring the map, and the array in front of it, to these services and what stands for them."""
        raw, wanted = self._raw_services(), _encoded(services)
        self._set_vip_filter({*services, *raw})  # of both, until no entry leads to a service that goes
        for key in wanted.keys() | raw.keys():
            if raw.get(key) == wanted.get(key):
                continue
            if key in wanted:
                self._update("services", key.pack(), wanted[key])
            else:
                self._delete("services", key.pack())
            self._front.refresh(key, wanted)
        self._set_vip_filter(services)

    def _set_vip_filter(self, keys: Iterable[ServiceKey]) -> None:
        """Write the filter's bits into conf, which must be there: a service without conf would be handled wrongly."""
        conf = self._array_entry("confs", 0)
        if NodeConf.unpack(conf):
            flags = derived_fields(conf)[1]
            self._update("confs", _index(0), with_derived_fields(conf, vip_filter(key.vip for key in keys), flags))

    def _set_flag(self, flag: ConfFlag, on: bool) -> None:
        conf = self._array_entry("confs", 0)
        bits, flags = derived_fields(conf)
        self._update("confs", _index(0), with_derived_fields(conf, bits, flags | flag if on else flags & ~flag))

    def _set_prefixes(self, name: str, prefixes: Iterable[Network]) -> None:
        wanted, there = set(prefixes), self._prefixes(name)
        if len(wanted) > PREFIXES:
            raise BpfError(f"{len(wanted)} prefixes: more than the {PREFIXES} that fit")
        # First what is new: one that takes the place of others must not leave a gap. If both do not fit, there is one.
        crowded = len(wanted | there) > PREFIXES
        for prefix in there - wanted if crowded else ():
            self._delete(name, pack_prefix(prefix))
        for prefix in wanted - there:
            self._update(name, pack_prefix(prefix), _index(1))
        for prefix in () if crowded else there - wanted:
            self._delete(name, pack_prefix(prefix))

    def _prefixes(self, name: str) -> set[Network]:
        return {unpack_prefix(key) for key in self._keys(name)}

    def _keys(self, name: str) -> list[bytes]:
        return bpf_map.keys(self._fds[name], self._specs[name].key_size)

    def _swap(
        self, name: str, key: bytes, values: npt.NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        if values.shape != shape or values.dtype != dtype:
            raise ValueError(f"{name}: {values.dtype}{values.shape} given, {dtype}{shape} wanted")
        inner = self._specs[name].inner
        assert inner
        fd = bpf_map.create_map(inner)
        try:
            _write(fd, values)
            self._update(name, key, _index(fd))
        finally:
            os.close(fd)  # the outer map keeps it

    def _read_table(
        self, name: str, key: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> npt.NDArray[Any] | None:
        number = self._lookup(name, key)
        if number is None:
            return None
        fd = bpf_map.open_map(int.from_bytes(number, "little"))
        try:
            with mmap.mmap(fd, int(np.prod(shape)) * dtype.itemsize, prot=mmap.PROT_READ) as memory:
                return np.frombuffer(memory.read(), dtype).reshape(shape)
        finally:
            os.close(fd)

    def _array_entry(self, name: str, index: int) -> bytes:
        value = self._lookup(name, _index(index))
        assert value is not None, "an array has all its entries"
        return value

    def _lookup(self, name: str, key: bytes) -> bytes | None:
        return bpf_map.lookup(self._fds[name], key, self._specs[name].value_size)

    def _update(self, name: str, key: bytes, value: bytes) -> None:
        bpf_map.update(self._fds[name], key, value)

    def _delete(self, name: str, key: bytes) -> None:
        bpf_map.delete(self._fds[name], key)


def _words(key: ServiceKey) -> str:
    return f"{key.vip} {key.protocol.name if key.protocol else 'any'} port {key.port}"


def _encoded(services: Mapping[ServiceKey, ServiceEntry]) -> dict[ServiceKey, bytes]:
    """What the services' map must hold: the services, and an entry for each VIP, and each (VIP, protocol).

    Fragments carry no ports. They are served where a service needs none for its hash and has no other beside it.
    """
    entries: dict[ServiceKey, bytes] = {}
    for key, entry in services.items():
        same = [other for other in services if other.any_port() == key.any_port()]
        fragments = len(same) == 1 and entry.affinity is Affinity.TWO_TUPLE
        flags = ServiceFlag.FRAGMENTS if fragments else ServiceFlag(0)
        entries[key.of_vip()] = _NO_SERVICE
        if key.any_port() not in services:
            stands = entry.pack(flags | ServiceFlag.PORTS_ONLY) if fragments else _NO_SERVICE
            entries[key.any_port()] = stands
        entries[key] = entry.pack(flags)
    return entries


def _open_or_make(path: Path, spec: MapSpec) -> int:
    fd = open_pin(path)
    if fd is None:
        fd = bpf_map.create_map(spec)
        try:
            pin_object(fd, path)
        except BaseException:
            os.close(fd)
            raise
    elif not bpf_map.map_matches(fd, spec):
        os.close(fd)
        raise BpfError(f"{path}: a BPF map of another shape is pinned here; remove it if nothing uses it")
    return fd


def _write(fd: int, values: npt.NDArray[Any]) -> None:
    """Fill an array map through its memory: 65,536 rows in 1 ms, a quarter of a batch update."""
    with mmap.mmap(fd, values.nbytes) as memory:
        memory.write(np.ascontiguousarray(values).tobytes())
