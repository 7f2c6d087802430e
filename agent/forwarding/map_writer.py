# SPDX-License-Identifier: Apache-2.0
"""The writer of the kernel's maps: node entries, rows and services, in an order that misroutes no packet.

Owns the services and the order. Node entries are node_table.py's, rows epoch_bank.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import numpy as np
from numpy.typing import NDArray

from agent.address import Network, tag_of
from agent.config.schema import Config
from agent.config.service import AFFINITIES, ServiceConfig
from agent.forwarding.epoch_bank import NO_CLAIMS, EpochBanks
from agent.forwarding.narrow_path import least_mtus
from agent.forwarding.node_table import NodeTable
from agent.forwarding.row_array import RowArray, ServiceRows
from agent.model import NAT_TABLE, Candidate
from agent.table.claims import Claims, claims_of
from agent.table.epoch import Epoch, EpochSwitch, EpochUse
from agent.table.table import RowNumbers
from bpf.attach.datapath import DataPath
from bpf.layout.conf import NodeConf
from bpf.layout.limits import BANKS, CHAIN, SLOTS, UPLINKS
from bpf.layout.nat import NAT_ROWS
from bpf.layout.service import Forward, Protocol, ServiceEntry, ServiceKey


class MapWriter:
    """The writer of one node's maps. It is `ready` when every service has its rows."""

    def __init__(
        self,
        config: Config,
        epochs: Sequence[Epoch],
        datapath: DataPath,
        own: IPv4Address,
        own6: IPv6Address | None,
        denied: Iterable[Network],
    ) -> None:
        """Take over what an earlier agent left in the maps: slots, indexes and rows keep their meaning.

        `epochs` are those that this node supports, `own` and `own6` its ends of tunnels, `denied` the whole deny list.
        """
        self._config = config
        self._datapath = datapath
        self._own = own
        maps = datapath.maps
        self.nodes = NodeTable(maps, own, own6, config.members.outer == "ipv6", least_mtus(config.services))
        maps.services.restore_cache()
        self._written: dict[ServiceKey, ServiceEntry] = maps.services.read()
        self._inputs: tuple[object, ...] | None = None
        """What the maps were last written from, as far as it can be compared at once; None after a failure."""
        self._kept_inputs: tuple[object, ...] = ()
        self._slots: dict[str, int] = {}
        """By the name of a service, and of the table of sessions."""
        self._tables: dict[str, str] = {}
        """By the name of a service, that of its table: all NAT services share that of the sessions."""
        self._epoch_banks = self._adopt(epochs)
        self._epoch_banks.before_swap = self._before_swap
        self.before_nat_rows: Callable[[NDArray[np.uint32]], None] = lambda chains: None
        """Gets the chains of the table of sessions that is written next, at the first time those that an earlier agent
        wrote if they stay: by row, the numbers of the nodes' addresses, owner first, 0 after the last."""
        self._nat_rows: ServiceRows | None = None
        """The rows whose chains `before_nat_rows` got last."""
        self._epochs = {epoch.number: epoch for epoch in epochs}
        maps.vlans.write(config.node.vlans)
        maps.node_prefixes.write(config.members.allow)
        self.deny(denied)

    def _adopt(self, epochs: Sequence[Epoch]) -> EpochBanks:
        maps, keys = self._datapath.maps, {key_of(service) for service in self._config.services}
        # A VIP that is no longer configured may still be announced: until `retire` its packets are handled as before.
        left = {key: entry for key, entry in self._written.items() if key not in keys}
        self._retiring = {key: entry for key, entry in left.items() if key.vip not in self._config.vips}
        self._written = {key: entry for key, entry in self._written.items() if key in keys}
        if len(self._written) + len(self._retiring) + len(keys - self._written.keys()) >= SLOTS:
            self._retiring = {}
        for key in left.keys() - self._retiring.keys():
            maps.services.remove(key)
        slots = {key: entry.slot for key, entry in self._written.items()}
        used = {*slots.values(), *(entry.slot for entry in self._retiring.values())}
        nat_before = maps.nat.conf() if maps.nat is not None else None
        if nat_before is not None:
            used.add(nat_before.table)
        free = (slot for slot in range(1, SLOTS) if slot not in used)
        kept = [service.name for service in self._config.services if key_of(service) in slots]
        self._slots = {s.name: slots.get(key_of(s)) or next(free) for s in self._config.services}
        if nat_before is not None:
            self._slots[NAT_TABLE] = nat_before.table
            kept.append(NAT_TABLE)
        elif maps.nat is not None:
            self._slots[NAT_TABLE] = next(free)
        self._tables = {s.name: NAT_TABLE if s.mode == "nat" else s.name for s in self._config.services}
        if NAT_TABLE in self._slots:
            self._tables[NAT_TABLE] = NAT_TABLE
        tables = {name: self._slots[name] for name in self._tables.values()}
        return EpochBanks(epochs, maps, tables, [name for name in kept if name in tables])

    def retire(self) -> None:
        """Remove the services whose VIPs left the configuration: routers no longer send their packets here."""
        for key in self._retiring:
            self._datapath.maps.services.remove(key)
        self._retiring = {}
        self._inputs = None

    def _nodes_of_retiring(self) -> set[IPv4Address]:
        """Return the nodes in the rows of services that left the configuration and are not removed yet."""
        found: set[int] = set()
        for entry, bank in ((entry, bank) for entry in self._retiring.values() for bank in range(BANKS)):
            rows = self._datapath.maps.tables.rows(entry.slot, bank)
            found |= set() if rows is None else set(np.unique(rows).tolist())
        return {address for address, index in self.nodes.indexes.items() if index in found}

    @property
    def ready(self) -> bool:
        """Whether every service has a table in the kernel and an entry that refers to it."""
        return self._epoch_banks.complete and bool(self._written)

    @property
    def use(self) -> EpochUse | None:
        """How the program uses this node's epochs; None if it uses none of them yet."""
        return self._epoch_banks.use

    def digest(self, service: str) -> str:
        """Return the digest of the owners of the rows that new flows of a service use; empty before the first."""
        return self._epoch_banks.digest(self._tables[service])

    def digests(self) -> dict[str, str]:
        """Return the digests of all services, by `service_key`."""
        return {service.key: self.digest(service.name) for service in self._config.services}

    def chain(self, service: str, epoch: int, row: int) -> list[IPv4Address]:
        """Return the nodes of one row of an epoch's table, owner first, as they are in the kernel.

        The list is empty if the service has no member, or no table yet.
        """
        addresses = {index: address for address, index in self.nodes.indexes.items()}
        return [addresses[index] for index in self._epoch_banks.row(self._tables[service], epoch, row)]

    def kernel_rows(self, service: str, epoch: int) -> RowArray | None:
        """Return the rows of an epoch's table as nodes' indexes, read back from the kernel; None if there are none."""
        return self._epoch_banks.kernel_rows(self._tables[service], epoch)

    def own_places(self, service: str, epoch: int, rows: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Return this node's place in each of these rows of an epoch's table, CHAIN where they do not name it."""
        of_service = self._epoch_banks.rows(self._tables[service], epoch)
        if of_service is None:
            return np.full(len(rows), CHAIN)
        named = of_service.array()[rows] == self.nodes.indexes[self._own]
        return np.where(named.any(axis=1), named.argmax(axis=1), CHAIN)

    @property
    def chains_revision(self) -> int:
        """A number that grows when rows change, but not if only their claimants do."""
        return self._epoch_banks.chains_revision

    def claims_in_rows(self) -> dict[str, dict[int, Claims]]:
        """Return the claims that the kernel's rows contain, by service name and epoch."""
        addresses = {index: address for address, index in self.nodes.indexes.items()}
        return {
            service: {
                epoch: {addresses[index]: rows for index, rows in found.items() if index in addresses}
                for epoch, found in self._epoch_banks.claims(service).items()
            }
            for service in self._tables.values()
        }

    def claims_of(self, service: str, epoch: int, held: RowNumbers) -> RowNumbers | None:
        """Return those of the rows with connections that this node claims; None as long as there is no table."""
        rows, own = self._epoch_banks.rows(service, epoch), self.nodes.indexes.get(self._own)
        return None if rows is None or own is None else claims_of(held, rows.array(), self._epochs[epoch].chain, own)

    def _before_swap(self, table: str, epoch: int, rows: ServiceRows) -> None:
        use = self._epoch_banks.use
        if table == NAT_TABLE and (use is None or epoch == use.first):
            self._show_nat_rows(self._epochs[epoch], rows)

    def _show_nat_rows(self, epoch: Epoch, rows: ServiceRows) -> None:
        """Call `before_nat_rows`, unless it has got these rows."""
        if rows is self._nat_rows:
            return
        self._nat_rows = rows
        chains = rows.array()[:NAT_ROWS, : epoch.chain]
        numbers = np.zeros(int(chains.max()) + 1, np.uint32)
        for address, index in self.nodes.indexes.items():
            if index < len(numbers):
                numbers[index] = int(address)
        self.before_nat_rows(numbers[chains])

    def full_rows(self) -> dict[str, int]:
        """Return how many rows of each service have no place for another claimant; services without one are absent."""
        return {name: full for name in self._tables.values() if (full := self._epoch_banks.full_rows(name))}

    def nearly_full_rows(self) -> dict[str, int]:
        """Return how many rows of each service have one place for another claimant; services without one are absent."""
        return {name: rows for name in self._tables.values() if (rows := self._epoch_banks.nearly_full_rows(name))}

    def slot(self, service: str) -> int:
        """Return the slot of a service, or of the table of sessions: the index of its rows and counters."""
        return self._slots[service]

    def set_uplink_mac(self, ifindex: int, mac: bytes) -> None:
        """Set the MAC of an interface that the program is attached to: frames to the old one are no longer for us."""
        for slot in range(UPLINKS):
            entry = self._datapath.maps.uplinks.read(slot)
            if entry is not None and entry.ifindex == ifindex:
                self._datapath.maps.uplinks.write(slot, replace(entry, mac=mac))

    def deny(self, denied: Iterable[Network]) -> None:
        """Replace the deny list: drop packets to VIPs that come from these prefixes."""
        self._datapath.maps.deny_list.write(denied)

    async def apply(
        self,
        candidates: Mapping[str, tuple[Candidate, ...]],
        up: Mapping[str, bool],
        ends: Mapping[IPv4Address, IPv6Address | None],
        epoch_switch: EpochSwitch,
        now: float,
        claims: Mapping[str, Mapping[int, Claims]] = NO_CLAIMS,
    ) -> None:
        """Write this view into the maps, and switch the program's use of the epochs.

        `candidates` and `up` (whether this node takes new flows) are by service name; `ends` is each node's IPv6 end
        of tunnels. Order: whether this node takes new flows (by then it is announced), the node entries that new rows
        will name, the rows, the use of the epochs, the services, and last the removal of entries that no row names any
        more. Nodes for which the table has no room yet are left out; the next call with the same arguments adds them
        (capacity.py bounds their number). Raises AgentError if there is room for none. `claims` are by service name and
        epoch. Nothing is done if `candidates`, `ends` and `claims` are the same objects as the last time, and the rest
        is equal.
        """
        inputs = id(candidates), id(ends), id(claims), dict(up), epoch_switch
        if inputs == self._inputs:
            return
        if self._inputs is None:  # a write that failed may have changed some of the services
            self._written = {
                key: one for key, one in self._datapath.maps.services.read().items() if key in self._written
            }
        self._inputs = None
        self._kept_inputs = candidates, ends, claims  # so that no other object gets their ids
        distinct = {id(members): members for members in candidates.values()}.values()
        named = {self._own, *self._nodes_of_retiring(), *(c.address for members in distinct for c in members)}
        if held := self.nodes.without_room(named):
            # The entries of those that leave are free once no row names them: the others follow in the next pass.
            named -= held
            kept = {id(members): tuple(c for c in members if c.address not in held) for members in distinct}
            candidates = {name: kept[id(members)] for name, members in candidates.items()}
        indexes = self.nodes.write(named, ends)
        self._write_up(up)
        # EpochBanks fills in the key and all that depends on the epoch.
        conf = NodeConf(
            indexes[self._own], tag_of(self._own), b"", address=self._own, address6=self.nodes.own6,
            cluster=self._config.cluster, echo_port=self._config.members.port,
            class_e=self._config.class_e_clients,
            drop_other_protocols=self._config.other_protocols == "drop",
        )  # fmt: skip
        hashes = {NAT_TABLE: "rendezvous", **{service.name: service.hash for service in self._config.services}}
        await self._epoch_banks.apply(epoch_switch, candidates, hashes, indexes, conf, now, claims)
        nat_rows = self._epoch_banks.rows(NAT_TABLE, epoch_switch.use.first) if NAT_TABLE in self._slots else None
        if nat_rows is not None:
            self._show_nat_rows(self._epochs[epoch_switch.use.first], nat_rows)
        self._write_services(up)
        self.nodes.remove(self.nodes.indexes.keys() - named)
        self._inputs = None if held else inputs

    def _write_up(self, up: Mapping[str, bool]) -> None:
        """Write whether this node takes new flows, for services that have rows: a SYN may come from a node whose rows
        are newer."""
        present = {key_of(service): up[service.name] for service in self._config.services}
        changed = {
            key: replace(entry, up=present[key]) for key, entry in self._written.items() if entry.up != present[key]
        }
        if changed:
            self._datapath.maps.services.write_all(changed)
            self._written |= changed

    def _write_services(self, up: Mapping[str, bool]) -> None:
        wanted = {
            key_of(service): ServiceEntry(
                self._slots[service.name],
                up[service.name],
                AFFINITIES[service.affinity],
                Forward[service.forward.upper()],
                service.when_no_member == "drop",
                service.mode == "nat",
            )
            for service in self._config.services
        }
        changed = {key: entry for key, entry in wanted.items() if self._written.get(key) != entry}
        if changed:
            self._datapath.maps.services.write_all(changed)
        for key in self._written.keys() - wanted.keys():
            self._datapath.maps.services.remove(key)
        self._written = wanted


def key_of(service: ServiceConfig) -> ServiceKey:
    """Return the key under which the data path finds a service."""
    return ServiceKey(service.vip, Protocol[service.protocol.upper()], service.port_number)
