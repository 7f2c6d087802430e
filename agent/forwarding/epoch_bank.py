# SPDX-License-Identifier: Apache-2.0
"""Carrying tables out: which epoch's rows lie on which side of the data path, and which side new flows go by.

Owns the order of writes when an epoch comes, goes or takes the other's place: the program never meets a side that is
half written. What an earlier agent left on a side whose epoch this one supports is taken over as it is.

What takes long (building a table; a swap, which waits until no CPU reads the old one) is done in a thread: the event
loop must go on, and with it the heartbeat to the relay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

import numpy as np
from numpy.typing import NDArray

from agent.forwarding.grace import Grace
from agent.model import Candidate
from agent.table import algorithm
from agent.table.epoch import Epoch, EpochSwitch, EpochUse
from agent.table.table import Table
from bpf.layout.conf import NodeConf, OtherEpoch
from bpf.layout.limits import BANKS, CHAIN, SLOTS
from bpf.maps.maps import Maps

Members = tuple[Candidate, ...]
TableKey = tuple[int, int, int, str, Members]
"""What a table follows from: version, rows, chain, the service's hash, its members."""


@dataclass(slots=True)
class _Rows:
    """What is in the kernel for one service on one side."""

    rows: NDArray[np.uint16] | None
    grace: Grace
    members: Members | None = None
    digest: str = ""
    table: Table | None = None
    """What the next table is made from sooner."""


class EpochBanks:
    """The tables of all services, for each epoch that this node supports."""

    def __init__(self, epochs: Sequence[Epoch], tables: Maps, slots: Mapping[str, int], kept: Iterable[str]) -> None:
        """Takes over what is there for the services `kept` (by name); `slots` are all services'."""
        self._epochs = {epoch.number: epoch for epoch in epochs}
        self._tables, self._slots = tables, slots
        self._conf = conf = tables.conf()
        self._held: list[int | None] = [None] * BANKS
        """By side, the epoch whose tables it has."""
        self.use: EpochUse | None = None
        """How the program uses the epochs; None before the first pass where it uses none of this node's."""
        if conf is not None:
            self._held[conf.bank] = conf.epoch if conf.epoch in self._epochs else None
            if conf.other is not None:
                self._held[1 - conf.bank] = conf.other.epoch if conf.other.epoch in self._epochs else None
            if self._held[conf.bank] is not None:
                self.use = EpochUse(conf.epoch, bool(conf.other and conf.other.alternating))
        self._armed = False
        self._swept = False
        self._rows = [{name: self._fresh() for name in slots} for _ in range(BANKS)]
        for side, name in ((side, name) for side in range(BANKS) if self._held[side] is not None for name in kept):
            rows, until = tables.rows(slots[name], side), tables.grace(slots[name], side)
            if rows is not None and until is not None:
                self._rows[side][name] = _Rows(rows, Grace.of(until))
        self._shared: dict[TableKey, Table] = {}

    def _fresh(self) -> _Rows:
        return _Rows(None, Grace.of(np.zeros(self._tables.row_count, np.uint64)))

    @property
    def complete(self) -> bool:
        """Whether every service has a table of the epoch that new flows go by."""
        return self.use is not None and all(rows.members is not None for rows in self._first().values())

    def digest(self, service: str) -> str:
        """The digest of the table that new flows of a service go by; empty before the first."""
        return self._first()[service].digest

    def row(self, service: str, epoch: int, row: int) -> list[int]:
        """The node indexes of one row as they are in the kernel, owner first; empty where there is none."""
        rows = self._rows[self._held.index(epoch)][service].rows if epoch in self._held else None
        return [] if rows is None else [index for index in rows[row].tolist() if index]

    def _first(self) -> dict[str, _Rows]:
        return self._rows[self._held.index(self.use.first) if self.use and self.use.first in self._held else 0]

    async def apply(
        self,
        epoch_switch: EpochSwitch,
        candidates: Mapping[str, Members],
        hashes: Mapping[str, str],
        indexes: Mapping[IPv4Address, int],
        conf: NodeConf,
        now: float,
    ) -> None:
        """Bring all tables to these candidates (and `hashes`) by service name, then the program to this epoch_switch.

        `conf` is what the program knows of this node else; its epochs are filled in here.
        """
        use = epoch_switch.use
        unsettled = use != self.use if self.use is not None else False
        unsettled |= epoch_switch.next is not None and not self._armed
        # Those that are there go first: what has to make room for another can then be left.
        for number in sorted(self._epochs, key=lambda number: number not in self._held):
            if number not in self._held:
                self._make_room(number, conf)
            side = self._held.index(number)
            for name in self._slots:
                await self._apply_rows(side, name, candidates[name], hashes[name], indexes, now, unsettled)
        others = [epoch for number, epoch in self._epochs.items() if number != use.first]
        other = OtherEpoch(others[0].key, others[0].number, use.alternating) if others else None
        self._write_conf(conf, use.first, other)
        self.use, self._armed = use, epoch_switch.next is not None
        if not self._swept:
            await asyncio.to_thread(self._sweep)
            self._swept = True
        kinds = {self._kind(epoch, hashes[n], candidates[n]) for epoch in self._epochs.values() for n in self._slots}
        self._shared = {kind: table for kind, table in self._shared.items() if kind in kinds}

    def _make_room(self, number: int, conf: NodeConf) -> None:
        """Take a side for an epoch: one that the program does not use, or can leave."""
        first = self._conf.bank if self._conf else 1
        side = 1 - first if self._held[1 - first] is None else first
        if self._conf is not None and side == first:
            stays = self._held[1 - side]
            assert stays is not None, "the epochs are two at most, and this one is the second"
            self._write_conf(conf, stays, None)
        elif self._conf is not None and self._conf.other is not None:
            self._tables.set_conf(replace(self._conf, other=None))
            self._conf = replace(self._conf, other=None)
        self._held[side] = number
        self._rows[side] = {name: self._fresh() for name in self._slots}

    def _write_conf(self, conf: NodeConf, first: int, other: OtherEpoch | None) -> None:
        epoch = self._epochs[first]
        new = replace(conf, hash_key=epoch.key, bank=self._held.index(first), epoch=first, other=other)
        if new != self._conf:
            self._tables.set_conf(new)
            self._conf = new

    def _sweep(self) -> None:
        """Give back the memory of a side that the program does not look into any more."""
        for side in range(BANKS):
            if self._held[side] is None:
                for slot in range(1, SLOTS):
                    self._tables.drop_rows(slot, side)

    async def _apply_rows(
        self,
        side: int,
        name: str,
        members: Members,
        kind: str,
        indexes: Mapping[IPv4Address, int],
        now: float,
        unsettled: bool,
    ) -> None:
        there, epoch = self._rows[side][name], self._epochs[self._held[side] or 0]
        if members == there.members:
            if unsettled:
                there.grace = there.grace.after(np.ones(self._tables.row_count, np.bool_), now)
                await asyncio.to_thread(self._tables.set_grace, self._slots[name], there.grace.until, side)
            return
        wanted = self._kind(epoch, kind, members)
        table = self._shared.get(wanted)
        if table is None:
            table = await asyncio.to_thread(self._build, wanted, there.table)
            self._shared[wanted] = table
        rows = _rows(table, [indexes[address] for address in table.members], self._tables.row_count)
        changed = np.ones(len(rows), np.bool_)
        if there.rows is not None and not unsettled:
            changed = _differing(rows, there.rows)
        if changed.any():
            there.grace = there.grace.after(changed, now)
            await asyncio.to_thread(self._tables.swap_rows, self._slots[name], rows, there.grace.until, side)
        there.rows, there.members, there.digest = rows, members, table.digest
        there.table = table if table.ranking is not None else None

    @staticmethod
    def _kind(epoch: Epoch, kind: str, members: Members) -> TableKey:
        return epoch.version, epoch.rows, epoch.chain, kind, members

    def _build(self, wanted: TableKey, before: Table | None) -> Table:
        version, rows, chain, kind, members = wanted
        # Services differ in their members' states more often than in the members: one ranking serves them all.
        weights = {c.address.packed: c.weight for c in members}
        alike = (table for known, table in self._shared.items() if known[:3] == wanted[:3])
        same = (table for table in alike if table.ranking is not None and table.ranking.ranks(weights))
        return algorithm.build(version, kind, members, rows, chain, next(same, before))


def _differing(rows: NDArray[np.uint16], before: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Which rows are not the same. Four places are compared as one number, in a tenth of the time."""
    fours = np.ascontiguousarray(rows).view(np.uint64) != np.ascontiguousarray(before).view(np.uint64)
    differing: NDArray[np.bool_] = np.logical_or.reduce(fours.T)
    return differing


def _rows(table: Table, indexes: Iterable[int], count: int) -> NDArray[np.uint16]:
    """The kernel's rows: node indexes, 0 after the chain's end, shape (count, CHAIN).

    A table of fewer rows is repeated: the low bits of a flow's hash are its row in both.
    """
    of_place = np.array([*indexes, 0], np.uint16)  # place -1 is the last entry: none
    rows = np.zeros((len(table.places), CHAIN), np.uint16)
    rows[:, : table.places.shape[1]] = of_place[table.places]
    return np.tile(rows, (count // len(rows), 1)) if len(rows) < count else rows
