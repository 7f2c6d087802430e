# SPDX-License-Identifier: Apache-2.0
"""The banks of the data path: which epoch's rows are in which bank, and which bank new flows use.

Owns the order of writes when an epoch is added, removed or becomes the first: the program never reads a bank that is
half written. Rows that an earlier agent left in a bank are kept unchanged if this agent supports the bank's epoch.

A thread does what takes long (building a table; a swap, which waits until no CPU reads the old one): the event loop
must go on, and with it the heartbeat to the relay.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from types import MappingProxyType

import numpy as np

from agent.forwarding.grace import Grace
from agent.forwarding.row_array import RowArray, ServiceRows, claims_in, rows_of
from agent.forwarding.table_cache import Members, TableCache
from agent.table.claims import Claimants, Claims, claimants
from agent.table.epoch import Epoch, EpochSwitch, EpochUse
from agent.table.table import RowNumbers, Table
from bpf.layout.conf import NodeConf, OtherEpoch
from bpf.layout.limits import BANKS, SLOTS
from bpf.maps.maps import Maps
from bpf.maps.table_map import Swap

NO_CLAIMS: Mapping[str, Mapping[int, Claims]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """The rows of services in one bank, as they are in the kernel. Services whose rows were equal from the start have
    the same object here: what is computed and written for one of them serves all."""

    rows: ServiceRows | None
    grace: Grace
    members: Members | None = None
    claims: Claims | None = None
    claimants: Claimants | None = None
    """What these claims have become, from which the next ones are made faster."""
    full: int = 0
    """The rows that have no place for another claimant."""
    nearly_full: int = 0
    """The rows that have a place for one more claimant, and no second."""
    digest: str = ""
    table: Table | None = None
    """A table from which the next one is built faster."""


class EpochBanks:
    """The tables of all services, for each epoch that this node supports."""

    def __init__(self, epochs: Sequence[Epoch], maps: Maps, slots: Mapping[str, int], kept: Iterable[str]) -> None:
        """Take over the rows of the services `kept` (by name) from the kernel; `slots` are those of all services."""
        self._epochs = {epoch.number: epoch for epoch in epochs}
        self._maps, self._slots = maps, slots
        self._conf = conf = maps.conf.read()
        self._epoch_in: list[int | None] = [None] * BANKS
        """By bank, the number of the epoch whose tables it has; None if it is free."""
        self.use: EpochUse | None = None
        """How the program uses the epochs; None before the first pass if it uses none of this node's."""
        if conf is not None:
            self._epoch_in[conf.bank] = conf.epoch if conf.epoch in self._epochs else None
            if conf.other is not None:
                self._epoch_in[1 - conf.bank] = conf.other.epoch if conf.other.epoch in self._epochs else None
            if self._epoch_in[conf.bank] is not None:
                self.use = EpochUse(conf.epoch, bool(conf.other and conf.other.alternating))
        self._armed = False
        self._freed = False
        self._rows = [dict.fromkeys(slots, self._empty()) for _ in range(BANKS)]
        for bank in range(BANKS):
            if self._epoch_in[bank] is not None:
                self._rows[bank] |= self._read(kept, bank)
        self._tables = TableCache()
        self.before_swap: Callable[[str, int, ServiceRows], None] = lambda name, epoch, rows: None
        """Gets the name, the epoch and the rows of a table that is written next."""
        self.chains_revision = 0
        """Grows when rows change, but not if only their claimants do."""

    def _empty(self) -> _Rows:
        return _Rows(None, Grace.of(np.zeros(self._maps.row_count, np.uint64)))

    def _read(self, services: Iterable[str], bank: int) -> dict[str, _Rows]:
        """Return the rows that the kernel has for these services; equal ones become one object again."""
        found: dict[str, _Rows] = {}
        distinct: list[_Rows] = []
        for name in services:
            rows, until = (
                self._maps.tables.rows(self._slots[name], bank),
                self._maps.tables.grace(self._slots[name], bank),
            )
            if rows is None or until is None:
                continue
            for known in distinct:
                same_rows = known.rows is not None and np.array_equal(known.rows.of_table, rows)
                if same_rows and np.array_equal(known.grace.until, until):
                    found[name] = known
                    break
            else:
                found[name] = _Rows(ServiceRows(rows, len(rows)), Grace.of(until))
                distinct.append(found[name])
        return found

    @property
    def complete(self) -> bool:
        """Whether every service has a table of the epoch that new flows use."""
        return self.use is not None and all(rows.members is not None for rows in self._first().values())

    def digest(self, service: str) -> str:
        """Return the digest of the owners of the rows that new flows of a service use; empty before the first."""
        return self._first()[service].digest

    def rows(self, service: str, epoch: int) -> ServiceRows | None:
        """Return the rows as they are in the kernel; None if there are none. Those that are the same object have not
        changed."""
        return self._rows[self._epoch_in.index(epoch)][service].rows if epoch in self._epoch_in else None

    def kernel_rows(self, service: str, epoch: int) -> RowArray | None:
        """Return the rows read back from the kernel, whatever was written last; None if there are none."""
        if epoch not in self._epoch_in:
            return None
        return self._maps.tables.rows(self._slots[service], self._epoch_in.index(epoch))

    def row(self, service: str, epoch: int, row: int) -> list[int]:
        """Return the node indexes of one row as they are in the kernel, owner first; empty if there is none."""
        rows = self.rows(service, epoch)
        return [] if rows is None else [index for index in rows.array()[row].tolist() if index]

    def claims(self, service: str) -> dict[int, dict[int, RowNumbers]]:
        """Return the claims that the kernel's rows of a service contain, by epoch and node index."""
        found = {}
        for bank, number in enumerate(self._epoch_in):
            rows = self._rows[bank][service].rows
            if number is not None and rows is not None:
                epoch = self._epochs[number]
                found[number] = claims_in(rows.array(), epoch.chain, epoch.rows)
        return found

    def full_rows(self, service: str) -> int:
        """Return how many rows that new flows of a service use have no place for another claimant."""
        return self._first()[service].full

    def nearly_full_rows(self, service: str) -> int:
        """Return how many rows that new flows of a service use have one place for another claimant."""
        return self._first()[service].nearly_full

    def _first(self) -> dict[str, _Rows]:
        return self._rows[self._epoch_in.index(self.use.first) if self.use and self.use.first in self._epoch_in else 0]

    async def apply(
        self,
        epoch_switch: EpochSwitch,
        candidates: Mapping[str, Members],
        hashes: Mapping[str, str],
        indexes: Mapping[IPv4Address, int],
        conf: NodeConf,
        now: float,
        claims: Mapping[str, Mapping[int, Claims]] = NO_CLAIMS,
    ) -> None:
        """Write the tables of these candidates and `hashes` (both by service name), then switch the program's epochs.

        `conf` is the rest of the program's configuration; this method fills in the epochs. `claims` are by service
        name and epoch: an object that is the same as the last time has not changed.
        """
        use = epoch_switch.use
        self._tables.retain(candidates.values(), indexes)
        # While the use changes, or is about to, all rows are in grace.
        switching = use != self.use if self.use is not None else False
        switching |= epoch_switch.next is not None and not self._armed
        # Epochs that have a bank come first: their tables must be up to date before the program stops reading the bank
        # that another epoch gets.
        for number in sorted(self._epochs, key=lambda number: number not in self._epoch_in):
            if number not in self._epoch_in:
                self._assign_bank(number, conf)
            bank = self._epoch_in.index(number)
            claimed = {name: claims.get(name, {}).get(number) for name in self._slots}
            await self._apply_rows(bank, candidates, claimed, hashes, now, switching)
        others = [epoch for number, epoch in self._epochs.items() if number != use.first]
        other = OtherEpoch(others[0].key, others[0].number, use.alternating) if others else None
        self._write_conf(conf, use.first, other)
        self.use, self._armed = use, epoch_switch.next is not None
        if not self._freed:
            await asyncio.to_thread(self._free_unused_banks)
            self._freed = True

    def _assign_bank(self, number: int, conf: NodeConf) -> None:
        """Assign a bank to an epoch: one that the program does not read, or can stop reading."""
        first = self._conf.bank if self._conf else 1
        bank = 1 - first if self._epoch_in[1 - first] is None else first
        if self._conf is not None and bank == first:
            stays = self._epoch_in[1 - bank]
            assert stays is not None, "the epochs are two at most, and this one is the second"
            self._write_conf(conf, stays, None)
        elif self._conf is not None and self._conf.other is not None:
            self._maps.conf.write(replace(self._conf, other=None))
            self._conf = replace(self._conf, other=None)
        self._epoch_in[bank] = number
        self._rows[bank] = dict.fromkeys(self._slots, self._empty())

    def _write_conf(self, conf: NodeConf, first: int, other: OtherEpoch | None) -> None:
        epoch = self._epochs[first]
        new = replace(conf, hash_key=epoch.key, bank=self._epoch_in.index(first), epoch=first, other=other)
        if new != self._conf:
            self._maps.conf.write(new)
            self._conf = new

    def _free_unused_banks(self) -> None:
        """Free the rows of banks that the program no longer reads."""
        for bank in range(BANKS):
            if self._epoch_in[bank] is None:
                for slot in range(1, SLOTS):
                    self._maps.tables.drop(slot, bank)

    async def _apply_rows(
        self,
        bank: int,
        candidates: Mapping[str, Members],
        claims: Mapping[str, Claims | None],
        hashes: Mapping[str, str],
        now: float,
        switching: bool,
    ) -> None:
        """Bring all tables of a bank to these candidates, with one swap for all services."""
        rows = self._rows[bank]
        groups: dict[tuple[int, int, int, str], list[str]] = {}
        for name, current in rows.items():
            if switching or candidates[name] != current.members or claims[name] is not current.claims:
                alike = id(current), id(candidates[name]), id(claims[name]), hashes[name]
                groups.setdefault(alike, []).append(name)
        computed: dict[tuple[int, int, str], list[tuple[list[str], _Rows, _Rows]]] = {}
        for (_, of_members, of_claims, kind), names in groups.items():
            current, inputs = rows[names[0]], (candidates[names[0]], claims[names[0]], kind)
            new = await asyncio.to_thread(self._next, bank, current, inputs, now, switching)
            computed.setdefault((of_members, of_claims, kind), []).append((names, current, new))
        swaps: list[Swap] = []
        changed: dict[str, _Rows] = {}
        for same in computed.values():
            names, current, new = same[0]
            if len(same) > 1:  # services that differed have equal rows from now on
                names = [name for more, _, _ in same for name in more]
                new = replace(new, grace=functools.reduce(Grace.longest, (one.grace for _, _, one in same)))
            if len(same) > 1 or new.grace is not current.grace:
                slots = tuple(self._slots[name] for name in names)
                only_grace = len(same) == 1 and new.rows is current.rows
                swaps.append(_swap(slots, new, bank, only_grace))
            changed |= dict.fromkeys(names, new)
        for name, new in changed.items():
            if new.rows is not None and new.rows is not rows[name].rows and new.grace is not rows[name].grace:
                self.before_swap(name, self._epoch_in[bank] or 0, new.rows)
        if swaps:
            await asyncio.to_thread(self._maps.tables.swap_all, swaps)
        self._rows[bank] = rows | changed
        pairs = [(rows[name], new) for name, new in changed.items()]
        self.chains_revision += any(old.grace is not new.grace and old.members != new.members for old, new in pairs)

    def _next(
        self,
        bank: int,
        current: _Rows,
        inputs: tuple[Members, Claims | None, str],
        now: float,
        switching: bool,
    ) -> _Rows:
        """Return the rows for these members, claims and hash; the same rows and grace objects if nothing is to be
        written."""
        members, claims, kind = inputs
        everywhere = np.ones(self._maps.row_count, np.bool_)
        if members == current.members and claims is current.claims:
            return replace(current, grace=current.grace.after(everywhere, now)) if switching else current
        epoch = self._epochs[self._epoch_in[bank] or 0]
        shared = self._tables.table(epoch, kind, members, current.table)
        table, before = shared.table, current.claimants
        claimed = claimants(table, members, claims or {}, before=before) if claims or table.lost else None
        rows = rows_of(table, claimed, shared.indexes, self._maps.row_count, shared.chains)
        touched = claimed.touched if claimed else None
        changed = everywhere if current.rows is None or switching else rows.differs_from(current.rows, touched)
        grace = current.grace.after(changed, now) if changed.any() else current.grace
        if not changed.any() and current.members is not None:
            assert current.rows is not None
            rows = current.rows
        kept = table if table.ranking is not None else None
        full, nearly_full = (claimed.full, claimed.nearly_full) if claimed else (0, 0)
        digest = current.digest if members == current.members else table.owners_digest
        return _Rows(rows, grace, members, claims, claimed, full, nearly_full, digest, kept)


def _swap(slots: tuple[int, ...], new: _Rows, bank: int, only_grace: bool) -> Swap:
    return Swap(slots, new.grace.fill, None if only_grace or new.rows is None else new.rows.fill, bank)
