# SPDX-License-Identifier: Apache-2.0
"""Carrying a view out: node entries, rows and services into the kernel's maps, in the order that misroutes nobody.

Owns the bookkeeping between addresses and the kernel's node indexes. What the rows say is rendezvous.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

import numpy as np
from numpy.typing import NDArray

from agent.config import Config, ServiceConfig
from agent.errors import AgentError
from agent.model import Candidate, tag_of
from agent.plan import Grace, node_indexes
from agent.rendezvous import build
from agent.table import Table
from bpf.datapath import DataPath
from bpf.layout import CHAIN, NODES, SLOTS, NodeConf, NodeEntry, Protocol, ServiceEntry, ServiceKey


@dataclass(slots=True)
class _Service:
    """What is in the kernel for one service."""

    slot: int
    candidates: tuple[Candidate, ...] | None
    digest: str
    rows: NDArray[np.uint16] | None
    grace: Grace


class Applier:
    """The writer of one node's maps. `ready` once every service has its rows."""

    def __init__(self, config: Config, datapath: DataPath, own: IPv4Address) -> None:
        """Takes over what an earlier agent left in the maps: slots, indexes and rows keep their meaning."""
        self._config = config
        self._datapath = datapath
        self._own = own
        tables = datapath.tables
        self._nodes: dict[int, NodeEntry] = tables.nodes()
        self._indexes = {entry.address: index for index, entry in self._nodes.items()}
        self._macs = {entry.address: entry.mac for entry in self._nodes.values() if entry.mac}
        self._written: dict[ServiceKey, ServiceEntry] = tables.services()
        self._services = self._adopt()
        self._conf: NodeConf | None = None
        self._shared: dict[tuple[Candidate, ...], Table] = {}

    def _adopt(self) -> dict[str, _Service]:
        slots = {key: entry.slot for key, entry in self._written.items()}
        free = (slot for slot in range(1, SLOTS) if slot not in slots.values())
        adopted = {}
        for service in self._config.services:
            slot = slots.get(key_of(service)) or next(free)
            rows = self._datapath.tables.rows(slot)
            adopted[service.name] = _Service(slot, None, "", rows, Grace.none(self._config.table.rows))
        return adopted

    @property
    def ready(self) -> bool:
        """Whether every service has a table in the kernel and an entry that leads to it."""
        return all(service.candidates is not None for service in self._services.values()) and bool(self._written)

    @property
    def adopted(self) -> bool:
        """Whether an earlier agent's rows are in the kernel for every service."""
        return all(service.rows is not None and service.rows.any() for service in self._services.values())

    def digest(self, service: str) -> str:
        """The digest of the rows that are in the kernel for a service; empty before the first."""
        return self._services[service].digest

    def chain(self, service: str, row: int) -> list[IPv4Address]:
        """The nodes of one row, owner first, as they are in the kernel; empty if it has no member, or no table yet."""
        rows = self._services[service].rows
        if rows is None:
            return []
        addresses = {index: address for address, index in self._indexes.items()}
        return [addresses[index] for index in rows[row].tolist() if index]

    def slot(self, service: str) -> int:
        """The service's slot: where its rows and counters are."""
        return self._services[service].slot

    def knows_macs(self, addresses: Iterable[IPv4Address]) -> bool:
        """Whether every one of these nodes can be reached."""
        return all(address in self._macs for address in addresses)

    def learn_mac(self, address: IPv4Address, mac: bytes) -> None:
        """A neighbour's MAC. The last known one stands until another is learned."""
        if self._macs.get(address) == mac:
            return
        self._macs[address] = mac
        if index := self._indexes.get(address):
            self._write_node(index, address)

    async def apply(self, candidates: Mapping[str, tuple[Candidate, ...]], up: Mapping[str, bool], now: float) -> None:
        """Bring the maps to this view: `candidates` and `up` (does this node take new flows) by service name.

        Order: the entries that new rows will name, the rows, the services, and last what no row names any more.
        """
        wanted = {self._own} | {c.address for members in candidates.values() for c in members}
        indexes = node_indexes(self._indexes, wanted, NODES)
        if indexes is None:
            raise AgentError(f"{len(wanted)} nodes: more than the {NODES - 1} that the node table holds")
        for address in sorted(wanted):
            self._write_node(indexes[address], address)
        dropped = {address: index for address, index in self._indexes.items() if address not in indexes}
        self._indexes = indexes | dropped
        self._write_conf(indexes[self._own])
        for service in self._config.services:
            await self._apply_rows(self._services[service.name], candidates[service.name], indexes, now)
        self._shared = {key: t for key, t in self._shared.items() if key in candidates.values()}
        self._write_services(up)
        for address, index in dropped.items():
            self._datapath.tables.set_node(index, None)
            del self._nodes[index], self._indexes[address]

    async def _apply_rows(
        self, service: _Service, members: tuple[Candidate, ...], indexes: Mapping[IPv4Address, int], now: float
    ) -> None:
        if members == service.candidates:
            return
        table = self._shared.get(members)
        if table is None:
            # In a thread: the heartbeat to the relay must not wait for a large table.
            table = await asyncio.to_thread(build, members, self._config.table.rows, self._config.table.chain)
            self._shared[members] = table
        rows = _rows(table, [indexes[address] for address in table.members])
        changed = np.ones(len(rows), np.bool_) if service.rows is None else (rows != service.rows).any(axis=1)
        if changed.any():
            service.grace = service.grace.after(changed, now)
            self._datapath.tables.swap_rows(service.slot, rows, service.grace.until)
        service.rows, service.candidates, service.digest = rows, members, table.digest

    def _write_node(self, index: int, address: IPv4Address) -> None:
        entry = NodeEntry(address, tag_of(address), self._macs.get(address))
        if self._nodes.get(index) != entry:
            self._datapath.tables.set_node(index, entry)
            self._nodes[index] = entry

    def _write_conf(self, own_index: int) -> None:
        conf = NodeConf(self_index=own_index, self_tag=tag_of(self._own), hash_key=self._config.hash_key)
        if conf != self._conf:
            self._datapath.tables.set_conf(conf)
            self._conf = conf

    def _write_services(self, up: Mapping[str, bool]) -> None:
        wanted = {
            key_of(service): ServiceEntry(self._services[service.name].slot, up[service.name])
            for service in self._config.services
        }
        for key, entry in wanted.items():
            if self._written.get(key) != entry:
                self._datapath.tables.set_service(key, entry)
        for key in self._written.keys() - wanted.keys():
            self._datapath.tables.del_service(key)
        self._written = wanted


def key_of(service: ServiceConfig) -> ServiceKey:
    """How the data path finds a service."""
    return ServiceKey(service.vip, Protocol[service.protocol.upper()], service.port_number)


def _rows(table: Table, indexes: Iterable[int]) -> NDArray[np.uint16]:
    """The kernel's rows: node indexes, 0 after the chain's end, shape (rows, CHAIN)."""
    of_place = np.array([*indexes, 0], np.uint16)  # place -1 is the last entry: none
    rows = np.zeros((len(table.places), CHAIN), np.uint16)
    rows[:, : table.places.shape[1]] = of_place[table.places]
    return rows
