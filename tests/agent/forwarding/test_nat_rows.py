# SPDX-License-Identifier: Apache-2.0
"""The map writer with services of mode nat: one table for all of them, which the next agent takes over."""

import asyncio
from collections.abc import Iterator
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from support.bpffs import new_bpffs
from support.nat_config import TEXT, nat_config

from agent.config.epoch import supported_epochs
from agent.config.schema import Config
from agent.forwarding.map_writer import MapWriter, key_of
from agent.model import NAT_TABLE, Candidate, State
from agent.table.epoch import EpochSwitch, EpochUse
from bpf.attach.datapath import DataPath
from bpf.layout.map_spec import NatShape
from bpf.layout.nat import NatConf
from bpf.maps.maps import Maps

A, B = IPv4Address("10.0.0.11"), IPv4Address("10.0.0.12")
BOTH = tuple(Candidate(address, 100, 100, State.UP) for address in (A, B))
FEWER = (BOTH[0], Candidate(B, 50, 50, State.UP))
CONFIG = nat_config()


@pytest.fixture
def maps() -> Iterator[Maps]:
    with new_bpffs("nat-rows") as folder:
        opened = Maps.open(folder, 4096, NatShape(1 << 16, ipv6=False))
        yield opened
        opened.close()


def map_writer(maps: Maps, config: Config = CONFIG) -> MapWriter:
    datapath = cast(DataPath, SimpleNamespace(maps=maps))
    return MapWriter(config, supported_epochs(config), datapath, A, None, ())


def apply(to: MapWriter, sessions: tuple[Candidate, ...], config: Config = CONFIG, now: float = 1.0) -> None:
    candidates = {service.name: BOTH for service in config.services} | {NAT_TABLE: sessions}
    switch = EpochSwitch(EpochUse(supported_epochs(config)[0].number))
    asyncio.run(to.apply(candidates, dict.fromkeys(candidates, True), {A: None, B: None}, switch, now))


def test_all_nat_services_share_the_table_of_sessions(maps: Maps) -> None:
    made = map_writer(maps)
    apply(made, BOTH[:1])
    nat_flags = {key: entry.nat for key, entry in maps.services.read().items()}
    assert nat_flags == {key_of(one): one.mode == "nat" for one in CONFIG.services}
    assert made.ready
    assert maps.tables.missing(made.slot(NAT_TABLE), 0) == []
    assert {one.name: maps.tables.missing(made.slot(one.name), 0) for one in CONFIG.services} == {
        "web": ["rows", "grace"],
        "dns": ["rows", "grace"],
        "dsr": [],
    }
    epoch = supported_epochs(CONFIG)[0].number
    assert made.chain("web", epoch, 5) == made.chain("dns", epoch, 5) == [A]
    assert set(made.chain("dsr", epoch, 5)) == {A, B}
    assert made.digest("web") == made.digest("dns") != made.digest("dsr")


def test_chains_of_sessions_are_shown_before_they_are_written_and_once(maps: Maps) -> None:
    made = map_writer(maps)
    shown: list[tuple[list[list[int]], bool]] = []

    def before(chains: NDArray[np.uint32]) -> None:
        written = maps.tables.rows(made.slot(NAT_TABLE), 0)
        shown.append((np.unique(chains, axis=0).tolist(), written is not None and bool(written.any())))

    made.before_nat_rows = before
    apply(made, BOTH[:1])
    apply(made, BOTH[:1], now=2.0)
    assert shown == [([[int(A), 0, 0, 0]], False)]
    apply(made, BOTH, now=3.0)
    assert shown[1] == ([[int(A), int(B), 0, 0], [int(B), int(A), 0, 0]], True)
    assert maps.nat
    maps.nat.write_conf(NatConf(1 << 16, made.slot(NAT_TABLE)))
    successor = map_writer(maps)
    successor.before_nat_rows = before
    apply(successor, BOTH, now=4.0)
    assert len(shown) == 3, "the next agent learns the rows that it found"
    assert shown[2] == shown[1]


def test_program_is_attached_only_with_the_table_of_sessions_and_its_conf(maps: Maps) -> None:
    made = map_writer(maps)
    apply(made, BOTH)
    assert maps.missing() == ["the conf of NAT"]
    assert maps.nat
    maps.nat.write_conf(NatConf(1 << 16, made.slot(NAT_TABLE)))
    assert maps.missing() == []
    maps.nat.write_conf(NatConf(1 << 16, made.slot("web")))
    assert maps.missing() == ["rows of NAT", "grace of NAT"]


def test_next_agent_keeps_the_table_and_its_rows(maps: Maps) -> None:
    made = map_writer(maps)
    apply(made, FEWER)
    assert maps.nat
    table = made.slot(NAT_TABLE)
    maps.nat.write_conf(NatConf(1 << 16, table))
    grace = maps.tables.grace(table, 0)
    more = nat_config(TEXT.replace("nat: {", "  - {name: z, vip: 192.0.2.9, protocol: tcp, port: 1}\nnat: {"))
    successor = map_writer(maps, more)
    apply(successor, FEWER, more, now=2.0)
    assert successor.slot(NAT_TABLE) == table != successor.slot("z")
    after = maps.tables.grace(table, 0)
    assert grace is not None
    assert after is not None
    assert (grace == after).all(), "no row changed, so none is in grace"
