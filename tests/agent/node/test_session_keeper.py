# SPDX-License-Identifier: Apache-2.0
"""What the keeper of sessions gets of a node: its maps, its services' names and its count of refusals."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from support.bpffs import new_bpffs
from support.nat_config import nat_config

from agent.node.forwarder import Forwarder
from agent.node.nat import session_keeper
from bpf.layout.counter import Counter
from bpf.layout.map_spec import NatShape
from bpf.layout.nat import NatConf
from bpf.layout.session import Session, SessionState, Tag, TagFlag
from bpf.maps.maps import Maps
from bpf.maps.session_map import SessionMap, now_tick

CONFIG = nat_config()
SLOTS = {"web": 1, "dns": 2, "dsr": 3}


@dataclass
class Node:
    maps: Maps
    forwarder: Forwarder
    datapath: SimpleNamespace

    @property
    def sessions(self) -> SessionMap:
        assert self.maps.sessions
        return self.maps.sessions

    def count(self, slot: int, counter: Counter, packets: int) -> None:
        stats = self.maps.pinned["stats"]
        per_cpu = np.frombuffer(stats.entry(slot), np.uint64).reshape(-1, len(Counter)).copy()
        per_cpu[-1, counter] += packets
        stats.set_entry(slot, per_cpu.tobytes())


def node_with(shape: NatShape | None) -> Iterator[Node]:
    with new_bpffs("session-keeper") as folder:
        maps = Maps.open(folder, 4096, shape)
        writer = SimpleNamespace(slot=SLOTS.__getitem__)
        datapath = SimpleNamespace(maps=maps, has_sessions=True)
        yield Node(maps, cast(Forwarder, SimpleNamespace(datapath=datapath, map_writer=writer)), datapath)
        maps.close()


@pytest.fixture
def node() -> Iterator[Node]:
    yield from node_with(NatShape(CONFIG.nat.sessions, ipv6=False) if CONFIG.nat else None)


@pytest.fixture
def plain() -> Iterator[Node]:
    yield from node_with(None)


def test_without_nat_there_is_none(plain: Node) -> None:
    assert session_keeper(CONFIG, None, lambda: None) is None
    assert session_keeper(CONFIG, plain.forwarder, lambda: None) is None


def test_it_knows_the_services_and_their_refusals(node: Node) -> None:
    node.count(1, Counter.DROP_NAT_FULL, 7)
    keeper = session_keeper(CONFIG, node.forwarder, lambda: None)
    assert keeper
    assert keeper.service_names == {1: "web", 2: "dns"}
    keeper._round()
    assert keeper.problems() == ()
    node.count(3, Counter.DROP_NAT_FULL, 1)
    node.count(2, Counter.FORWARD_BACKEND, 1)
    keeper._round()
    assert keeper.problems() == ()
    node.count(2, Counter.DROP_NAT_FULL, 1)
    keeper._round()
    assert len(keeper.problems()) == 1


def test_it_changes_the_memory_of_the_program(node: Node) -> None:
    keeper = session_keeper(CONFIG, node.forwarder, lambda: None)
    assert keeper
    assert node.maps.nat
    ends = [CONFIG.services[0].vip] * 4
    session = Session(6, ends[0], 1, ends[1], 443, ends[2], 8443, ends[3], 40_000, backend_index=9, service_slot=1)
    node.sessions.write(500, session)
    node.sessions.tags[500] = Tag(3, SessionState.EST, TagFlag(0), (now_tick() - 4000) & 0xFFFF_FFFF).pack()
    node.maps.nat.loads[9] = (1, 1)
    keeper._round()
    entry = node.maps.pinned["session_tags"].entry(500 // 8)
    assert not any(entry[8 * (500 % 8) + 4 : 8 * (500 % 8) + 8]), "a stamp alone"
    assert node.maps.nat.load(9).active == 0
    node.maps.nat.write_conf(NatConf(CONFIG.nat.sessions if CONFIG.nat else 0, 9))
    keeper.watch._set_watched(True)
    conf = node.maps.nat.conf()
    assert conf
    assert conf.watched


def _establish_of_another_pool(node: Node) -> None:
    assert node.maps.nat
    ends = [CONFIG.services[0].vip] * 3
    session = Session(
        6, ends[0], 1, ends[1], 443, ends[2], 8443, IPv4Address("10.254.0.1"), 40_000, backend_index=9, service_slot=1
    )
    node.sessions.write(500, session)
    node.sessions.tags[500] = Tag(3, SessionState.EST, TagFlag(0), now_tick()).pack()
    node.maps.nat.loads[9] = (1, 1)


def test_sessions_of_another_pool_are_closed(node: Node) -> None:
    """Their backends would answer to addresses that are no longer of the pool, and their clients would wait."""
    assert CONFIG.nat
    assert node.maps.nat
    _establish_of_another_pool(node)
    states = []
    for text in ("10.255.0.0/31", "10.254.0.0/31"):
        node.maps.nat.write_conf(NatConf(CONFIG.nat.sessions, 9, IPv4Network(text)))
        assert session_keeper(CONFIG, node.forwarder, lambda: None)
        states.append(Tag.unpack(int(node.sessions.tags[500])).state)
    assert states == [SessionState.EST, SessionState.CLOSED], "the first is the start of the configuration's"
    assert node.maps.nat.load(9).active == 0


def test_sessions_of_another_pool_are_closed_when_they_are_copied(node: Node) -> None:
    """If nat.sessions changes at the same time, the maps are empty when the agent starts."""
    assert CONFIG.nat
    assert node.maps.nat
    node.maps.nat.write_conf(NatConf(CONFIG.nat.sessions, 9, IPv4Network("10.254.0.0/31")))
    node.datapath.has_sessions = False
    keeper = session_keeper(CONFIG, node.forwarder, lambda: None)
    assert keeper
    node.maps.nat.write_conf(NatConf(CONFIG.nat.sessions, 9, IPv4Network("10.255.0.0/31")))  # by the new agent
    _establish_of_another_pool(node)

    async def play() -> None:
        running = asyncio.create_task(keeper.run())
        node.datapath.has_sessions = True
        async with asyncio.timeout(60):
            while keeper.scan is None:
                await asyncio.sleep(0.005)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(play())
    assert Tag.unpack(int(node.sessions.tags[500])).state is SessionState.CLOSED
    assert node.maps.nat.load(9).active == 0
