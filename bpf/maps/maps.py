# SPDX-License-Identifier: Apache-2.0
"""All maps of a data path, opened from their pins.

The agent decides what they hold; bpf/layout encodes it. The program sees each write at once.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from bpf.layout.map_spec import NatShape, map_specs
from bpf.layout.service import ServiceKey
from bpf.maps.conf_map import ConfMap
from bpf.maps.counter_map import CounterMap
from bpf.maps.echo_map import EchoMap
from bpf.maps.mss_map import MssMap
from bpf.maps.nat_maps import NatMaps
from bpf.maps.node_map import NodeMap
from bpf.maps.pinned_map import PinnedMap
from bpf.maps.prefix_map import DenyList, NodePrefixes
from bpf.maps.sampling_map import SamplingMap
from bpf.maps.service_map import ServiceMap
from bpf.maps.session_map import SessionMap
from bpf.maps.table_map import TableMap
from bpf.maps.uplink_map import UplinkMap
from bpf.maps.vlan_map import VlanMap


class Maps:
    """Open maps, for tables of `row_count` rows; `nat` and `sessions` are None without NAT."""

    def __init__(self, row_count: int, pinned: Mapping[str, PinnedMap], nat_shape: NatShape | None = None) -> None:
        self.row_count = row_count
        self.nat_shape = nat_shape
        self.pinned = pinned
        """By name, the maps without their meaning."""
        self.conf = ConfMap(pinned["confs"], pinned["services"], pinned["denied"])
        self.uplinks = UplinkMap(pinned["uplinks"])
        self.vlans = VlanMap(pinned["vlans"])
        self.nodes = NodeMap(pinned["nodes"])
        self.services = ServiceMap(pinned["services"], pinned["service_cache"], pinned["stats"], self.conf)
        self.tables = TableMap(pinned["rows"], pinned["grace"], row_count)
        self.counters = CounterMap(pinned["stats"], self.services)
        self.node_prefixes = NodePrefixes(pinned["node_prefixes"], pinned["node_prefix4"])
        self.deny_list = DenyList(pinned["denied"], self.conf)
        self.mss = MssMap(pinned["mss"])
        self.echo_state = EchoMap(pinned["echo_state"])
        self.sampling = SamplingMap(pinned["sampling"], pinned["samples"], self.conf)
        self.nat = NatMaps(pinned) if nat_shape else None
        self.sessions = SessionMap.open(pinned, nat_shape) if nat_shape else None

    @classmethod
    def open(cls, folder: Path, row_count: int, nat: NatShape | None = None) -> Self:
        """Open the maps pinned in a folder; make and pin those that are missing.

        Raises BpfError if a pin there has another shape.
        """
        pinned: dict[str, PinnedMap] = {}
        try:
            for spec in map_specs(row_count, nat):
                pinned[spec.name] = PinnedMap.open(folder, spec)
        except BaseException:
            for one in pinned.values():
                one.close()
            raise
        return cls(row_count, pinned, nat)

    def close(self) -> None:
        """Close the descriptors; the pins live on."""
        self.services.close()
        if self.nat:
            self.nat.close()
        if self.sessions:
            self.sessions.close()
        for one in self.pinned.values():
            one.close()

    def map_ids(self) -> frozenset[int]:
        """Return the kernel's ids of the maps."""
        return frozenset(one.id() for one in self.pinned.values())

    def missing(self) -> list[str]:
        """Return what must still be written before the program may use these maps; empty if nothing."""
        absent: list[str] = []
        conf = self.conf.read()
        if not conf:
            absent.append("the node's conf")
        elif conf.self_index not in self.nodes.read():
            absent.append(f"the node's own entry (index {conf.self_index})")
        first = conf.bank if conf else 0
        banks = (first, 1 - first) if conf and conf.other else (first,)
        services = self.services.read()
        tables = {entry.slot: _description(key) for key, entry in services.items() if not entry.nat}
        if any(entry.nat for entry in services.values()):
            nat = self.nat.conf() if self.nat else None
            if nat is None:
                absent.append("the conf of NAT")
            else:
                tables[nat.table] = "NAT"
        for slot, name in tables.items():
            lacking = {kind for bank in banks for kind in self.tables.missing(slot, bank)}
            absent += [f"{kind} of {name}" for kind in ("rows", "grace") if kind in lacking]
        return absent


def _description(key: ServiceKey) -> str:
    return f"{key.vip} {key.protocol.name if key.protocol else 'any'} port {key.port}"
