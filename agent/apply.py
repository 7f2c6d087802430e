# SPDX-License-Identifier: Apache-2.0
"""Carrying a view out: node entries, rows and services into the kernel's maps, in the order that misroutes nobody.

Owns the bookkeeping between addresses and the kernel's node indexes. What the rows say is rendezvous.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

import numpy as np
from numpy.typing import NDArray

from agent import algorithm
from agent.config import Config, ServiceConfig
from agent.errors import AgentError
from agent.model import Address, Candidate, Network, tag_of
from agent.next_hop import NextHop
from agent.plan import Grace, node_indexes
from agent.table import Table
from bpf.datapath import DataPath
from bpf.layout import (
    CHAIN,
    NODES,
    SLOTS,
    UPLINKS,
    Affinity,
    Forward,
    NodeConf,
    NodeEntry,
    Protocol,
    ServiceEntry,
    ServiceKey,
)

AFFINITIES = {"5-tuple": Affinity.FIVE_TUPLE, "3-tuple": Affinity.THREE_TUPLE, "2-tuple": Affinity.TWO_TUPLE}


@dataclass(slots=True)
class _Service:
    """What is in the kernel for one service."""

    slot: int
    candidates: tuple[Candidate, ...] | None
    digest: str
    rows: NDArray[np.uint16] | None
    grace: Grace
    table: Table | None = None
    """What the next table is made from sooner."""


class Applier:
    """The writer of one node's maps. `ready` once every service has its rows."""

    def __init__(
        self, config: Config, datapath: DataPath, own: IPv4Address, own6: IPv6Address | None, denied: Iterable[Network]
    ) -> None:
        """Takes over what an earlier agent left in the maps: slots, indexes and rows keep their meaning.

        `own` and `own6` are this node's ends of tunnels, `denied` the whole deny list.
        """
        self._config = config
        self._datapath = datapath
        self._own, self._ends = own, {own: own6}
        tables = datapath.tables
        self._nodes: dict[int, NodeEntry] = tables.nodes()
        self._indexes = {entry.address: index for index, entry in self._nodes.items()}
        self._hops = {_target(entry): _hop(entry) for entry in self._nodes.values() if entry.mac}
        self._written: dict[ServiceKey, ServiceEntry] = tables.services()
        self._services = self._adopt()
        self._conf: NodeConf | None = None
        self._shared: dict[tuple[str, tuple[Candidate, ...]], Table] = {}
        tables.set_node_prefixes(config.members.allow)
        self.deny(denied)

    def _adopt(self) -> dict[str, _Service]:
        tables, keys = self._datapath.tables, {key_of(service) for service in self._config.services}
        for key in self._written.keys() - keys:
            tables.del_service(key)
        self._written = {key: entry for key, entry in self._written.items() if key in keys}
        slots = {key: entry.slot for key, entry in self._written.items()}
        used = set(slots.values())
        free = (slot for slot in range(1, SLOTS) if slot not in used)
        adopted = {}
        for service in self._config.services:
            slot = slots.get(key_of(service))
            rows = tables.rows(slot) if slot else None
            until = tables.grace(slot) if slot else None
            grace = Grace.of(np.zeros(self._config.table.rows, np.uint64) if until is None else until)
            adopted[service.name] = _Service(slot or next(free), None, "", rows, grace)
        return adopted

    @property
    def ready(self) -> bool:
        """Whether every service has a table in the kernel and an entry that leads to it."""
        return all(service.candidates is not None for service in self._services.values()) and bool(self._written)

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

    def reaches(self, targets: Iterable[Address]) -> bool:
        """Whether the way to every one of these addresses is known."""
        return all((hop := self._hops.get(target)) is not None and hop.mac is not None for target in targets)

    def target(self, address: IPv4Address, end6: IPv6Address | None) -> Address:
        """Which of a node's two addresses its packets are sent to."""
        return end6 if end6 is not None and self._config.members.outer == "ipv6" else address

    def known_hop(self, target: Address) -> NextHop | None:
        """The next hop that is in the maps for an address."""
        return self._hops.get(target)

    def mtus(self) -> list[int]:
        """The MTUs of the ways to the other nodes that the tables name, as far as these are known."""
        targets = [self.target(address, self._ends.get(address)) for address in self._indexes if address != self._own]
        return [hop.mtu for target in targets if (hop := self._hops.get(target)) and hop.mac]

    def learn_hop(self, target: Address, hop: NextHop) -> None:
        """The way to a node's address. The last known one stands until another is learned."""
        self._hops[target] = hop
        for address, index in self._indexes.items():
            if self.target(address, self._ends.get(address)) == target:
                self._write_node(index, address)

    def learn_uplink(self, ifindex: int, mac: bytes) -> None:
        """An interface that the program is attached to has another MAC: frames to the old one are no longer ours."""
        for slot in range(UPLINKS):
            entry = self._datapath.tables.uplink(slot)
            if entry is not None and entry.ifindex == ifindex:
                self._datapath.tables.set_uplink(slot, replace(entry, mac=mac))

    def deny(self, denied: Iterable[Network]) -> None:
        """Drop the packets to VIPs that come from these prefixes, and no others'."""
        self._datapath.tables.set_denied(denied)

    async def apply(
        self,
        candidates: Mapping[str, tuple[Candidate, ...]],
        up: Mapping[str, bool],
        ends: Mapping[IPv4Address, IPv6Address | None],
        now: float,
    ) -> None:
        """Bring the maps to this view: `candidates` and `up` (does this node take new flows) by service name, `ends`
        by node its IPv6 address.

        Order: the entries that new rows will name, the rows, the services, and last what no row names any more.
        """
        self._ends = {**ends, self._own: self._ends[self._own]}
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
            await self._apply_rows(service, candidates[service.name], indexes, now)
        used = {(service.hash, candidates[service.name]) for service in self._config.services}
        self._shared = {key: table for key, table in self._shared.items() if key in used}
        self._write_services(up)
        for address, index in dropped.items():
            self._datapath.tables.set_node(index, None)
            del self._nodes[index], self._indexes[address]

    async def _apply_rows(
        self, config: ServiceConfig, members: tuple[Candidate, ...], indexes: Mapping[IPv4Address, int], now: float
    ) -> None:
        service = self._services[config.name]
        if members == service.candidates:
            return
        table = self._shared.get((config.hash, members))
        if table is None:
            # In a thread: the event loop must go on, and with it the heartbeat to the relay.
            table = await asyncio.to_thread(self._build, config.hash, members, service.table)
            self._shared[config.hash, members] = table
        rows = _rows(table, [indexes[address] for address in table.members])
        changed = np.ones(len(rows), np.bool_) if service.rows is None else (rows != service.rows).any(axis=1)
        if changed.any():
            service.grace = service.grace.after(changed, now)
            self._datapath.tables.swap_rows(service.slot, rows, service.grace.until)
        service.rows, service.candidates, service.digest = rows, members, table.digest
        service.table = table if table.ranking is not None else None

    def _build(self, kind: str, members: tuple[Candidate, ...], before: Table | None) -> Table:
        version, rows, chain = self._config.table.version, self._config.table.rows, self._config.table.chain
        # Services differ in their members' states more often than in the members: one ranking serves them all.
        weights = {c.address.packed: c.weight for c in members}
        same = (t for t in self._shared.values() if t.ranking is not None and t.ranking.ranks(weights))
        return algorithm.build(version, kind, members, rows, chain, next(same, before))

    def _write_node(self, index: int, address: IPv4Address) -> None:
        end6 = self._ends.get(address)
        target = self.target(address, end6)
        hop = self._hops.get(target) or NextHop(None)
        outer6 = target == end6
        entry = NodeEntry(
            address, tag_of(address), hop.mac, hop.on_link, end6, outer6, hop.ifindex, hop.source, hop.vlan, hop.mtu
        )
        if self._nodes.get(index) != entry:
            self._datapath.tables.set_node(index, entry)
            self._nodes[index] = entry

    def _write_conf(self, own_index: int) -> None:
        own6 = self._ends[self._own]
        conf = NodeConf(own_index, tag_of(self._own), self._config.hash_key, address=self._own, address6=own6)
        if conf != self._conf:
            self._datapath.tables.set_conf(conf)
            self._conf = conf

    def _write_services(self, up: Mapping[str, bool]) -> None:
        wanted = {
            key_of(service): ServiceEntry(
                self._services[service.name].slot,
                up[service.name],
                AFFINITIES[service.affinity],
                Forward[service.forward.upper()],
                service.when_no_member == "drop",
            )
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


def _target(entry: NodeEntry) -> Address:
    return entry.address6 if entry.outer6 and entry.address6 else entry.address


def _hop(entry: NodeEntry) -> NextHop:
    return NextHop(entry.mac, entry.on_link, entry.ifindex, entry.source, entry.vlan, entry.mtu)


def _rows(table: Table, indexes: Iterable[int]) -> NDArray[np.uint16]:
    """The kernel's rows: node indexes, 0 after the chain's end, shape (rows, CHAIN)."""
    of_place = np.array([*indexes, 0], np.uint16)  # place -1 is the last entry: none
    rows = np.zeros((len(table.places), CHAIN), np.uint16)
    rows[:, : table.places.shape[1]] = of_place[table.places]
    return rows
