# SPDX-License-Identifier: Apache-2.0
"""A view written into real maps: the services, nodes, prefixes and deny list that the program reads."""

import asyncio
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from agent.config.epoch import supported_epochs
from agent.config.file import parse
from agent.config.schema import Config
from agent.forwarding.map_writer import MapWriter, key_of
from agent.forwarding.next_hop import NextHop
from agent.forwarding.unlisted_interface import unlisted_interfaces
from agent.model import Candidate, State
from agent.table.epoch import EpochSwitch, EpochUse
from bpf.attach.datapath import DataPath
from bpf.errors import BpfError
from bpf.layout.conf import ConfFlag
from bpf.layout.limits import CHAIN
from bpf.layout.node import NodeEntry
from bpf.layout.service import Affinity, Forward, ServiceEntry, ServiceKey
from bpf.maps.maps import Maps

pytestmark = pytest.mark.lab

TEXT = """\
cluster: 7
node: {interface: eth0, vlans: [5, 4094]}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443, affinity: 2-tuple, when_no_member: drop}
  - {name: six, vip: "2001:db8:99::1", protocol: udp, port: 53, forward: l2, hash: maglev, health: {port: 53}}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24, "2001:db8::/64"], outer: ipv6}
deny: [198.51.100.0/24]
table: {rows: 4096}
"""
A, B, C = (IPv4Address("10.0.0.11") + i for i in range(3))
A6, B6 = IPv6Address("2001:db8::11"), IPv6Address("2001:db8::12")
CONFIG = parse(TEXT, "lb.yml")
MAC, SOURCE = bytes.fromhex("020000000002"), bytes.fromhex("020000000077")
ALL = tuple(Candidate(address, 100, 100, State.UP) for address in (A, B, C))


@dataclass
class FakeDataPath:
    """All of a data path that the map writer uses: its maps."""

    maps: Maps


@pytest.fixture
def datapath(tmp_path: Path) -> Iterator[FakeDataPath]:
    assert not os.geteuid(), "needs root"
    subprocess.run(["mount", "-t", "bpf", "bpf", tmp_path], check=True)
    try:
        folder = tmp_path / "maps"
        folder.mkdir()
        maps = Maps.open(folder, 4096)
        yield FakeDataPath(maps)
        maps.close()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def map_writer(datapath: FakeDataPath, config: Config = CONFIG) -> MapWriter:
    return MapWriter(config, supported_epochs(config), cast(DataPath, datapath), A, A6, config.deny)


def apply(
    to: MapWriter,
    members: tuple[Candidate, ...],
    now: float = 1.0,
    epoch_switch: EpochSwitch | None = None,
    up: bool = True,
) -> None:
    ends = {A: A6, B: B6, C: None}
    present = dict.fromkeys(("web", "six"), members)
    present_ends = {c.address: ends[c.address] for c in members}
    epoch_switch = epoch_switch or EpochSwitch(EpochUse(supported_epochs(CONFIG)[0].number))
    asyncio.run(to.apply(present, {"web": up, "six": False}, present_ends, epoch_switch, now))


def test_what_the_program_reads(datapath: FakeDataPath) -> None:
    made = map_writer(datapath)
    apply(made, ALL)
    web, six = CONFIG.services
    assert datapath.maps.services.read() == {
        key_of(web): ServiceEntry(1, True, Affinity.TWO_TUPLE, Forward.GUE, drop_no_member=True),
        key_of(six): ServiceEntry(2, False, Affinity.FIVE_TUPLE, Forward.L2),
    }
    assert datapath.maps.vlans.read() == {5, 4094}
    assert datapath.maps.node_prefixes.read() == {IPv4Network("10.0.0.0/24"), IPv6Network("2001:db8::/64")}
    assert datapath.maps.deny_list.read() == {IPv4Network("198.51.100.0/24")}
    conf = datapath.maps.conf.read()
    assert conf is not None
    assert (conf.address, conf.address6, conf.hash_key) == (A, A6, CONFIG.hash_key)
    assert made.ready
    assert made.digest("web") != made.digest("six"), "rendezvous and maglev"


def test_own_places_are_those_of_the_kernels_rows(datapath: FakeDataPath) -> None:
    made = map_writer(datapath)
    epoch, rows = supported_epochs(CONFIG)[0].number, np.array([0, 7, 7, 4095], np.uint32)
    assert made.own_places("web", epoch, rows).tolist() == [CHAIN] * 4, "no rows yet"
    apply(made, ALL)
    expected = [made.chain("web", epoch, row).index(A) for row in range(4096)]
    assert set(expected) == {0, 1, 2}
    assert made.own_places("web", epoch, np.arange(4096, dtype=np.uint32)).tolist() == expected
    assert made.own_places("web", epoch + 1, rows).tolist() == [CHAIN] * 4, "an epoch that this node has not"
    apply(made, ALL[1:], now=100.0)
    assert made.own_places("web", epoch, rows).tolist() == [CHAIN] * 4
    assert made.own_places("web", epoch, rows[:0]).tolist() == []


def test_full_node_table_takes_new_nodes_once_others_have_left(
    datapath: FakeDataPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows may name the entries of those that leave until they are written again: two passes, and no frozen table."""
    monkeypatch.setattr("agent.forwarding.node_table.NODES", 4)
    made = map_writer(datapath)
    apply(made, ALL)
    d, e, f = (Candidate(A + i, 100, 100, State.UP) for i in (3, 4, 5))
    view = dict.fromkeys(("web", "six"), (ALL[0], d, e))
    ends = dict.fromkeys((A, d.address, e.address), None)
    epoch_switch = EpochSwitch(EpochUse(supported_epochs(CONFIG)[0].number))

    def owners(now: float) -> set[IPv4Address]:
        asyncio.run(made.apply(view, {"web": True, "six": False}, ends, epoch_switch, now))
        row = range(0, 4096, 16)
        return {made.chain("web", supported_epochs(CONFIG)[0].number, number)[0] for number in row}

    assert owners(2.0) == {A}, "no room yet for the others"
    assert owners(3.0) == {A, d.address, e.address}
    assert owners(4.0) == {A, d.address, e.address}
    view = dict.fromkeys(view, (ALL[0], d, e, f))
    assert owners(5.0) == {A, d.address, e.address}, "one too many: the others are served"


def test_next_hop_of_the_address_that_tunnels_use(datapath: FakeDataPath) -> None:
    made = map_writer(datapath)
    apply(made, ALL)
    assert datapath.maps.nodes.read()[2] == NodeEntry(B, 12, None, address6=B6, outer6=True)
    made.nodes.set_hop(B, NextHop(MAC))
    assert datapath.maps.nodes.read()[2].mac is None, "packets are not sent to this address"
    made.nodes.set_hop(B6, NextHop(MAC, False, 3, SOURCE, 7, 1400))
    assert datapath.maps.nodes.read()[2] == NodeEntry(B, 12, MAC, False, B6, True, 3, SOURCE, 7, 1400)
    assert made.nodes.unlisted_egress({3}) == []
    assert made.nodes.unlisted_egress({4}) == [(B, 3)]
    path = SimpleNamespace(uplinks=[SimpleNamespace(ifindex=3)], mode="native")
    made.nodes.set_hop(B6, NextHop(MAC, False, 1, SOURCE))
    (problem,) = unlisted_interfaces(made, cast(DataPath, path))
    assert problem == "10.0.0.12 is reached by lo, where XDP may be unable to send: list it in node.interfaces"
    path.mode = "generic"
    assert unlisted_interfaces(made, cast(DataPath, path)) == [], "in generic mode the kernel sends by any interface"
    made.nodes.set_hop(C, NextHop(MAC))
    assert datapath.maps.nodes.read()[3] == NodeEntry(C, 13, MAC), "its identity has no IPv6 address"
    assert made.nodes.reaches([B6, C])


def test_node_takes_new_flows_before_its_own_rows_are_swapped(
    datapath: FakeDataPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other nodes may have newer rows, and send it the flows that it has announced to take."""
    made = map_writer(datapath)
    apply(made, ALL[:2], up=False)
    web, taken = key_of(CONFIG.services[0]), []
    original = datapath.maps.tables.swap_all

    def swap_all(swaps: Any) -> None:
        taken.append(datapath.maps.services.read()[web].up)
        original(swaps)

    monkeypatch.setattr(datapath.maps.tables, "swap_all", swap_all)
    apply(made, ALL, up=True)
    apply(made, ALL[:2], up=False)
    assert taken == [True, True, False, False], "each time in the tables of both versions of Maglev"


def test_successor_takes_over_the_maps(datapath: FakeDataPath) -> None:
    first = map_writer(datapath)
    apply(first, ALL)
    first.nodes.set_hop(B6, NextHop(MAC, False, 3, SOURCE, 7, 1400))
    second = map_writer(datapath)
    assert second.nodes.known_hop(B6) == NextHop(MAC, False, 3, SOURCE, 7, 1400)
    nodes, grace = datapath.maps.nodes.read(), datapath.maps.tables.grace(1)
    apply(second, ALL, now=500.0)
    assert datapath.maps.nodes.read() == nodes
    assert grace is not None
    assert (datapath.maps.tables.grace(1) == grace).all(), "nothing changed, so no row is in grace again"


def test_silence_stays_when_conf_is_written(datapath: FakeDataPath) -> None:
    made, conf = map_writer(datapath), datapath.maps.conf
    apply(made, ALL[:2])
    before = conf.read()
    made.nodes.set_silent({B: 7}, {})
    assert conf.read() == before, "the flag changes nothing else"
    apply(made, ALL, now=500.0)
    assert ConfFlag.SILENT in conf.flags()
    conf.write(replace(before, again_per_s=1))
    assert ConfFlag.SILENT in conf.flags()
    assert datapath.maps.nodes.read()[2].drop_until_ns == 7


def test_only_changed_rows_are_in_grace_and_a_removed_node_is_cleared(datapath: FakeDataPath) -> None:
    made = map_writer(datapath)
    apply(made, ALL)
    rows = datapath.maps.tables.rows(1)
    apply(made, ALL[:2], now=100.0)
    after, grace = datapath.maps.tables.rows(1), datapath.maps.tables.grace(1)
    assert rows is not None
    assert after is not None
    assert grace is not None
    assert ((rows != after).any(axis=1) <= (grace > 100 * 10**9)).all()
    assert C not in {entry.address for entry in datapath.maps.nodes.read().values()}
    made.nodes.set_hop(C, NextHop(MAC))
    assert C not in {entry.address for entry in datapath.maps.nodes.read().values()}, "its next hop does not restore it"
    made.deny([IPv6Network("2001:db8:bad::/48")])
    assert datapath.maps.deny_list.read() == {IPv6Network("2001:db8:bad::/48")}


def test_services_follow_after_a_write_that_failed_half_way(
    datapath: FakeDataPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, services = map_writer(datapath), datapath.maps.services
    apply(made, ALL)
    write_all = services.write_all

    def fail_late(entries: Mapping[ServiceKey, ServiceEntry]) -> None:
        write_all(entries)
        raise BpfError("no")

    with monkeypatch.context() as patched:
        patched.setattr(services, "write_all", fail_late)
        with pytest.raises(BpfError):
            apply(made, ALL, up=False)
    apply(made, ALL)
    assert services.read()[key_of(CONFIG.services[0])].up


def test_no_node_entry_is_left_behind_by_a_write_that_failed(
    datapath: FakeDataPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, nodes = map_writer(datapath), datapath.maps.nodes
    apply(made, ALL[:1])
    write = nodes.write

    def fail_at_the_second(index: int, entry: NodeEntry | None) -> None:
        if index > 2:
            raise BpfError("no")
        write(index, entry)

    with monkeypatch.context() as patched:
        patched.setattr(nodes, "write", fail_at_the_second)
        with pytest.raises(BpfError):
            apply(made, ALL)
    apply(made, ALL[:1])
    assert [entry.address for entry in nodes.read().values()] == [A]
