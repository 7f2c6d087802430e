# SPDX-License-Identifier: Apache-2.0
"""Silence in the node table, in real maps. What else its entries hold is test_map_writer.py's."""

import os
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from agent.forwarding.next_hop import NextHop
from agent.forwarding.node_table import NodeTable
from bpf.layout.conf import ConfFlag, NodeConf
from bpf.maps.maps import Maps

pytestmark = pytest.mark.lab

A, B, C, D = (IPv4Address("10.0.0.11") + i for i in range(4))
B6 = IPv6Address("2001:db8::12")
ENDS = {A: None, B: B6, C: None}
MAC = bytes.fromhex("020000000002")


@pytest.fixture
def maps(tmp_path: Path) -> Iterator[Maps]:
    assert not os.geteuid(), "needs root"
    subprocess.run(["mount", "-t", "bpf", "bpf", tmp_path], check=True)
    try:
        folder = tmp_path / "maps"
        folder.mkdir()
        made = Maps.open(folder, 4096)
        yield made
        made.close()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def table(maps: Maps) -> NodeTable:
    return NodeTable(maps, A, None, over_ipv6=True)


def silent(maps: Maps) -> dict[IPv4Address, int]:
    return {entry.address: entry.drop_until_ns for entry in maps.nodes.read().values() if entry.silent}


def flag(maps: Maps) -> bool:
    return ConfFlag.SILENT in maps.conf.flags()


def test_silence_is_written_at_once_and_stays_through_other_writes(maps: Maps) -> None:
    nodes = table(maps)
    nodes.write({A, B, C}, ENDS)
    nodes.set_hop(B6, NextHop(MAC))
    assert (silent(maps), flag(maps)) == ({}, False)
    nodes.set_silent({B: 700, C: 0}, {})
    assert (silent(maps), flag(maps)) == ({B: 700, C: 0}, True)
    entry = maps.nodes.read()[2]
    assert (entry.address, entry.mac, entry.address6, entry.outer6) == (B, MAC, B6, True)
    nodes.set_hop(B6, NextHop(MAC, False, 3))
    nodes.write({A, B, C}, dict(ENDS))
    assert silent(maps) == {B: 700, C: 0}
    nodes.set_silent({B: 0}, {})
    assert (silent(maps), flag(maps)) == ({B: 0}, True)
    nodes.set_silent({}, {})
    assert (silent(maps), flag(maps)) == ({}, False)


def test_doubted_node_is_not_passed_over_but_may_be_awaited(maps: Maps) -> None:
    def awaited() -> dict[IPv4Address, int]:
        entries = maps.nodes.read().values()
        return {one.address: one.drop_until_ns for one in entries if one.drop_until_ns and not one.silent}

    nodes = table(maps)
    nodes.write({A, B, C}, ENDS)
    nodes.set_silent({B: 700}, {B: 800, C: 900})
    assert (silent(maps), awaited(), flag(maps)) == ({B: 700}, {C: 900}, True)
    nodes.set_silent({}, {C: 900})
    assert (silent(maps), awaited(), flag(maps)) == ({}, {C: 900}, True)
    nodes.set_silent({}, {})
    assert (silent(maps), awaited(), flag(maps)) == ({}, {}, False)


def test_node_is_silent_as_soon_as_it_has_an_entry_and_this_node_never_is(maps: Maps) -> None:
    nodes = table(maps)
    nodes.set_silent({A: 5, B: 5, D: 9}, {})
    assert (silent(maps), flag(maps)) == ({}, True)
    maps.conf.write(NodeConf(1, 11, bytes(16)))
    assert flag(maps), "the first conf does not take it away"
    nodes.write({A, B}, ENDS)
    assert silent(maps) == {B: 5}
    nodes.write({A, D}, ENDS)
    nodes.remove([B])
    assert silent(maps) == {D: 9}


def test_program_looks_for_silent_nodes_before_there_are_any_and_until_there_are_none(
    maps: Maps, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = table(maps)
    nodes.write({A, B, C}, ENDS)
    original, flags = maps.nodes.write, []

    def write(index: int, entry: Any) -> None:
        flags.append(flag(maps))
        original(index, entry)
        flags.append(flag(maps))

    monkeypatch.setattr(maps.nodes, "write", write)
    nodes.set_silent({B: 1}, {})
    nodes.set_silent({}, {})
    assert flags == [True] * 4


def test_successor_keeps_silence_until_it_is_set_otherwise(maps: Maps) -> None:
    first = table(maps)
    first.write({A, B, C}, ENDS)
    first.set_hop(B6, NextHop(MAC))
    first.set_silent({B: 700}, {})
    second = table(maps)
    assert second.silent == {B: 700}
    second.set_hop(B6, NextHop(MAC, False, 3))
    second.write({A, B, C}, dict(ENDS))
    assert (silent(maps), flag(maps)) == ({B: 700}, True)
    third = table(maps)
    third.set_silent({C: 1}, {})
    assert silent(maps) == {C: 1}
    entry = maps.nodes.read()[2]
    assert (entry.mac, entry.address6, entry.outer6) == (MAC, B6, True), "the rest of the entry stays as it was"


def test_silent_and_doubted_nodes_are_awaited_until_their_time(maps: Maps) -> None:
    nodes = table(maps)
    nodes.set_silent({B: 700, C: 0}, {D: 900})
    assert (nodes.awaited(699), nodes.awaited(700), nodes.awaited(900)) == ([D, B], [D], [])


def test_the_program_compares_widths_while_a_path_is_too_narrow(maps: Maps) -> None:
    def flagged() -> bool:
        return ConfFlag.NARROW in maps.conf.flags()

    nodes = NodeTable(maps, A, None, over_ipv6=True, least_mtus={False: 1308, True: 1328})
    nodes.write({A, B, C}, ENDS)
    for target in (A, B6, C):  # this node's own path does not matter
        nodes.set_hop(target, NextHop(MAC, mtu=1280 if target == A else 1328))
    assert (nodes.narrow(), flagged()) == ([], False)
    nodes.set_hop(B6, NextHop(MAC, mtu=1327))
    assert ([one.address for one in nodes.narrow()], flagged()) == ([B], True)
    nodes.set_hop(C, NextHop(MAC, mtu=1307))
    nodes.set_hop(B6, NextHop(MAC, mtu=1328))
    assert ([one.address for one in nodes.narrow()], flagged()) == ([C], True)
    assert ConfFlag.NARROW in maps.conf.flags()
    nodes.remove([C])
    assert not flagged()


def test_next_hops_of_addresses_that_are_not_followed_are_forgotten(maps: Maps) -> None:
    """Nodes come and go for years; the hop of a node that rows may still name stays."""
    nodes = table(maps)
    nodes.write({A, B}, ENDS)
    for one in (B6, C, D):
        nodes.set_hop(one, NextHop(MAC))
    nodes.keep_hops({C})
    assert [nodes.known_hop(one) is not None for one in (B6, C, D)] == [True, True, False]
