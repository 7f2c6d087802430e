# SPDX-License-Identifier: Apache-2.0
"""Epochs that are added, switched and removed, in real maps: what the program would read after each step."""

import asyncio
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import numpy as np
import pytest

from agent.forwarding import table_cache
from agent.forwarding.epoch_bank import EpochBanks
from agent.model import Candidate, State
from agent.table import algorithm, epoch
from agent.table.claims import Claims
from agent.table.epoch import Epoch, EpochSwitch, EpochUse
from bpf.kernel import bpf_map
from bpf.layout.conf import NodeConf, OtherEpoch
from bpf.layout.limits import SLOTS as MAX_SLOTS
from bpf.maps.maps import Maps

pytestmark = pytest.mark.lab

ROWS = 8192
ADDRESSES = [IPv4Address("10.0.0.11") + i for i in range(4)]
INDEXES = {address: 1 + i for i, address in enumerate(ADDRESSES)}
ALL = tuple(Candidate(address, 100, 100, State.UP) for address in ADDRESSES)
SLOTS = {"web": 1, "dns": 2}
BASE = NodeConf(1, 11, b"", address=ADDRESSES[0])
OLD = Epoch(0x0E, 1, ROWS, 4, bytes(16))
NEW = Epoch(0x1E, 1, ROWS, 4, bytes(range(16)))
SMALL = Epoch(0x2E, 1, ROWS // 2, 3, bytes(range(16)))
PAIRS = Epoch(0x4E, 1, ROWS, 2, bytes(16))
THIRD = Epoch(0x3E, 1, ROWS, 4, bytes(range(1, 17)))


@pytest.fixture
def maps(tmp_path: Path) -> Iterator[Maps]:
    assert not os.geteuid(), "needs root"
    subprocess.run(["mount", "-t", "bpf", "bpf", tmp_path], check=True)
    try:
        made = Maps.open(tmp_path, ROWS)
        yield made
        made.close()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def banks(maps: Maps, *epochs: Epoch) -> EpochBanks:
    kept = SLOTS if maps.conf.read() else ()
    return EpochBanks(epochs, maps, SLOTS, kept)


def apply(
    to: EpochBanks, epoch_switch: EpochSwitch | EpochUse, members: tuple[Candidate, ...] = ALL, now: float = 1.0
) -> None:
    epoch_switch = epoch_switch if isinstance(epoch_switch, EpochSwitch) else EpochSwitch(epoch_switch)
    hashes: Mapping[str, str] = {"web": "rendezvous", "dns": "maglev"}
    asyncio.run(to.apply(epoch_switch, dict.fromkeys(SLOTS, members), hashes, INDEXES, BASE, now))


def used(maps: Maps) -> tuple[Epoch | None, ...]:
    """Return the epochs that the program uses according to the keys that it reads."""
    conf = maps.conf.read()
    assert conf is not None
    by_key = {epoch.key: epoch.number for epoch in (OLD, NEW, THIRD)}
    assert by_key[conf.hash_key] == conf.epoch
    assert conf.other is None or by_key[conf.other.hash_key] == conf.other.epoch
    known = {epoch.number: epoch for epoch in (OLD, NEW, THIRD)}
    return known[conf.epoch], known[conf.other.epoch] if conf.other else None


def grace(maps: Maps, now: float) -> set[bool]:
    """Return whether rows are in grace now, of all services in all banks in use."""
    conf = maps.conf.read()
    assert conf is not None
    banks = [conf.bank, 1 - conf.bank] if conf.other else [conf.bank]
    found = [maps.tables.grace(slot, bank) for slot in SLOTS.values() for bank in banks]
    return {bool(one) for until in found if until is not None for one in np.unique(until > now * 10**9)}


def test_a_switch(maps: Maps) -> None:
    first = banks(maps, OLD)
    assert first.use is None
    apply(first, EpochUse(OLD.number))
    assert used(maps) == (OLD, None)
    assert maps.missing() == ["the node's own entry (index 1)"]

    second = banks(maps, NEW, OLD)  # the same node with the new configuration
    assert second.use == EpochUse(OLD.number)
    apply(second, EpochUse(OLD.number), now=100.0)
    assert used(maps) == (OLD, NEW)
    conf = maps.conf.read()
    assert conf is not None
    assert conf.bank == 0
    assert not (maps.tables.grace(1, 0) > 100 * 10**9).any(), "the rows in use do not change"  # type: ignore[operator]

    turns, switched = EpochUse(OLD.number, alternating=True), EpochUse(NEW.number, alternating=True)
    apply(second, EpochSwitch(EpochUse(OLD.number), turns, 200.0), now=200.0)
    assert grace(maps, 200.0) == {True}, "before the use changes"
    assert used(maps) == (OLD, NEW)
    apply(second, turns, now=202.0)
    conf = maps.conf.read()
    assert conf is not None
    assert (conf.epoch, conf.other) == (OLD.number, OtherEpoch(NEW.key, NEW.number, alternating=True))
    apply(second, EpochSwitch(turns, switched, 203.0), now=203.0)
    rows = maps.tables.rows(1, 0)
    apply(second, switched, now=205.0)
    assert used(maps) == (NEW, OLD)
    assert (maps.tables.rows(1, 0) == rows).all()  # type: ignore[union-attr]
    assert grace(maps, 205.0) == {True}

    last = banks(maps, NEW)
    assert last.use == switched
    apply(last, EpochUse(NEW.number), now=300.0)
    assert used(maps) == (NEW, None)
    assert maps.tables.rows(1, 0) is None, "its memory is free"
    assert maps.tables.rows(1, 1) is not None


def test_a_successor_with_the_same_configuration_changes_nothing(maps: Maps) -> None:
    use = EpochUse(NEW.number, alternating=True)
    apply(banks(maps, NEW, OLD), use)
    conf = maps.conf.read()
    graces = [maps.tables.grace(slot, bank) for slot in SLOTS.values() for bank in (0, 1)]
    successor = banks(maps, NEW, OLD)
    assert successor.use == use
    apply(successor, use, now=500.0)
    assert maps.conf.read() == conf
    after = [maps.tables.grace(slot, bank) for slot in SLOTS.values() for bank in (0, 1)]
    assert all((a == b).all() for a, b in zip(graces, after, strict=True) if a is not None and b is not None)
    assert successor.complete


def test_epochs_that_replace_each_other_without_a_switch(maps: Maps) -> None:
    """A new key without `previous`; then two new epochs while both banks are in use."""
    apply(banks(maps, OLD), EpochUse(OLD.number))
    apply(banks(maps, NEW), EpochUse(NEW.number))
    assert used(maps) == (NEW, None)
    apply(banks(maps, NEW, OLD), EpochUse(NEW.number, alternating=True))
    assert used(maps) == (NEW, OLD)
    third = banks(maps, THIRD)
    assert third.use is None
    apply(third, EpochUse(THIRD.number))
    assert used(maps) == (THIRD, None)
    assert third.complete
    apply(banks(maps, OLD, NEW), EpochUse(NEW.number))
    assert used(maps) == (NEW, OLD)
    assert maps.missing() == ["the node's own entry (index 1)"]


def test_next_switch_starts_while_the_previous_epoch_is_still_supported(maps: Maps) -> None:
    apply(banks(maps, NEW, OLD), EpochUse(NEW.number, alternating=True))
    after = banks(maps, THIRD, NEW)
    assert after.use == EpochUse(NEW.number, alternating=True)
    apply(after, EpochUse(NEW.number))
    assert used(maps) == (NEW, THIRD)


def test_epoch_with_fewer_rows_uses_the_same_maps(maps: Maps) -> None:
    """The low bits of a hash are its row in both."""
    made = banks(maps, SMALL, OLD)
    apply(made, EpochUse(OLD.number))
    rows = maps.tables.rows(1, 0)
    assert rows is not None
    assert (rows[: ROWS // 2] == rows[ROWS // 2 :]).all()
    expected = algorithm.build(1, "rendezvous", ALL, ROWS // 2, 3)
    for row in (0, 77, ROWS // 2 - 1):
        chain = [INDEXES[expected.members[place]] for place in expected.places[row]]
        assert made.row("web", SMALL.number, row) == chain
        assert rows[row].tolist() == [*chain, *[0] * 5]


def test_another_version_makes_other_rows(maps: Maps, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a later release: two table algorithms at the same time."""

    def turned(members: tuple[Candidate, ...], rows: int, chain: int, before: object) -> object:
        table = algorithm.build(1, "rendezvous", members, rows, chain)
        return replace(table, places=np.roll(table.places, 1, axis=0))

    monkeypatch.setitem(algorithm.ALGORITHMS["rendezvous"], 9, turned)
    monkeypatch.setitem(epoch.CHANGED_IN, "rendezvous", (1, 9))
    later = Epoch(0x4E, 9, ROWS, 4, OLD.key)
    made = banks(maps, later, OLD)
    apply(made, EpochUse(OLD.number))
    assert made.row("web", later.number, 5) == made.row("web", OLD.number, 4)
    assert made.row("web", later.number, 5) != made.row("web", OLD.number, 5)


def test_members_change_in_both_banks(maps: Maps) -> None:
    made = banks(maps, NEW, OLD)
    apply(made, EpochUse(OLD.number))
    apply(made, EpochUse(OLD.number), ALL[:2], now=50.0)
    for slot, bank in ((slot, bank) for slot in SLOTS.values() for bank in (0, 1)):
        rows = maps.tables.rows(slot, bank)
        assert rows is not None
        assert set(np.unique(rows)) == {0, 1, 2}


def shared(maps: Maps, bank: int = 0) -> bool:
    """Whether both services have the same inner map."""
    indexes = [(slot + bank * MAX_SLOTS).to_bytes(4, "little") for slot in SLOTS.values()]
    return len({bpf_map.lookup(maps.pinned["rows"].fd, index, 4) for index in indexes}) == 1


def test_services_with_equal_candidates_share_one_table(maps: Maps) -> None:
    """From the start, again after they differed, and after a restart; what they differ in is each one's own."""

    def bring(to: EpochBanks, web: tuple[Candidate, ...], dns: tuple[Candidate, ...], now: float) -> None:
        found, hashes = {"web": web, "dns": dns}, dict.fromkeys(SLOTS, "rendezvous")
        asyncio.run(to.apply(EpochSwitch(EpochUse(OLD.number)), found, hashes, INDEXES, BASE, now))

    made = banks(maps, OLD)
    bring(made, ALL, ALL, 1.0)
    assert shared(maps)
    assert made.digest("web") == made.digest("dns")
    drained = (replace(ALL[0], effective=0, state=State.DRAINING), *ALL[1:])
    bring(made, ALL, drained, 100.0)
    assert not shared(maps)
    assert not (maps.tables.grace(SLOTS["web"]) > 100 * 10**9).any(), "it has not changed"  # type: ignore[operator]
    assert (maps.tables.grace(SLOTS["dns"]) > 100 * 10**9).any()  # type: ignore[operator]
    less = drained[:3]
    bring(made, less, less, 104.0)
    assert shared(maps)
    rows = maps.tables.rows(SLOTS["web"])
    changed = maps.tables.grace(SLOTS["web"]) > 104 * 10**9  # type: ignore[operator]
    assert changed.any()
    assert rows is not None
    assert not (rows == INDEXES[ADDRESSES[3]]).any()

    successor = banks(maps, OLD)
    bring(successor, less, less, 200.0)
    assert shared(maps)
    bring(successor, ALL, ALL, 300.0)
    assert shared(maps), "a restart does not end it"


def claim(
    to: EpochBanks,
    claims: Mapping[str, Mapping[int, Claims]],
    now: float,
    epoch: Epoch = PAIRS,
    members: tuple[Candidate, ...] = ALL,
) -> None:
    found, hashes = dict.fromkeys(SLOTS, members), dict.fromkeys(SLOTS, "rendezvous")
    asyncio.run(to.apply(EpochSwitch(EpochUse(epoch.number)), found, hashes, INDEXES, BASE, now, claims))


def test_claimants_have_places_after_the_chain(maps: Maps) -> None:
    """Only their rows change, and are in grace; a successor keeps them, and without claims rows are as before."""
    made = banks(maps, PAIRS)
    claim(made, {}, 1.0)
    before, revision = maps.tables.rows(SLOTS["web"]), made.chains_revision
    assert before is not None
    absent = np.flatnonzero(~(before == INDEXES[ADDRESSES[2]]).any(axis=1)).astype(np.uint32)
    claims = {"web": {PAIRS.number: {ADDRESSES[2]: absent[:9]}}}
    claim(made, claims, 100.0)
    assert made.chains_revision == revision, "no node's own claims depend on those of others"
    assert not shared(maps)
    rows = maps.tables.rows(SLOTS["web"])
    assert rows is not None
    assert (rows[absent[:9], 2] == INDEXES[ADDRESSES[2]]).all()
    assert np.flatnonzero((rows != before).any(axis=1)).tolist() == absent[:9].tolist()
    in_grace = maps.tables.grace(SLOTS["web"]) > 100 * 10**9  # type: ignore[operator]
    assert np.flatnonzero(in_grace).tolist() == absent[:9].tolist()
    assert (maps.tables.rows(SLOTS["dns"]) == before).all()  # type: ignore[union-attr]

    successor = banks(maps, PAIRS)
    left = successor.claims("web")[PAIRS.number]
    assert {index: numbers.tolist() for index, numbers in left.items()} == {INDEXES[ADDRESSES[2]]: absent[:9].tolist()}
    assert successor.claims("dns") == {PAIRS.number: {}}
    revision = successor.chains_revision
    claim(successor, {"web": {PAIRS.number: {ADDRESSES[2]: left[INDEXES[ADDRESSES[2]]]}}}, 200.0)
    assert successor.chains_revision == revision, "nothing has changed"
    claim(successor, {}, 300.0)
    assert successor.chains_revision == revision
    assert (maps.tables.rows(SLOTS["web"]) == before).all()  # type: ignore[union-attr]
    claim(successor, {}, 400.0, members=(replace(ALL[0], effective=0, state=State.DRAINING), *ALL[1:]))
    assert successor.chains_revision > revision


def test_rankings_are_kept_for_few_sets_of_members(maps: Maps, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is megabytes: a node whose services all have other members keeps some, and its tables are the same."""
    monkeypatch.setattr(table_cache, "RANKINGS_KEPT", 1)
    made = banks(maps, OLD)
    hashes = dict.fromkeys(SLOTS, "rendezvous")
    for members in (ALL, ALL[1:], ALL):
        wanted = {"web": members, "dns": ALL[:2]}
        asyncio.run(made.apply(EpochSwitch(EpochUse(OLD.number)), wanted, hashes, INDEXES, BASE, 1.0))
        tables = [
            *(one.table for one in made._tables.shared.values()),
            *(one.table for one in made._first().values() if one.table),
        ]
        assert len({id(one.ranking) for one in tables if one.ranking}) <= 1
        for name, candidates in wanted.items():
            table = algorithm.build(OLD.version, "rendezvous", candidates, OLD.rows, OLD.chain)
            assert made.digest(name) == table.owners_digest
