# SPDX-License-Identifier: Apache-2.0
"""Fragments that are collected, one after the other: order, age, floods. fixtures/fragments.yml has single ones."""

from collections.abc import Iterator
from typing import Any

import pytest
from support import packets
from support.packets import HERE, MORE_FRAGMENTS

from bpf.kernel.bpf_map import possible_cpus
from bpf.layout.counter import Counter
from bpf.layout.limits import FIRST_FRAGMENTS
from bpf.layout.service import Protocol
from bpf.maps.pinned_map import pack_index

VIPS = {4: "10.99.0.1", 6: "2001:db8:99::1"}
CLIENTS = {4: "10.1.0.2", 6: "2001:db8:1::2"}
SLOT, OWNER = 1, 3
COLLECT = 11
LIMIT_DELAY = 2  # enum rate_limit of lb.h
FLOOD = 1000
C = Counter


@pytest.fixture
def world(program: Any) -> Iterator[Any]:
    """This node collects: it is first in the row of the two addresses, and node 3 in all others."""
    known = program.maps.pinned["first_fragments"]
    for key in known.read_keys():
        known.delete(key)
    program.maps.pinned["spent"].update(pack_index(LIMIT_DELAY), bytes(8 * possible_cpus()))
    program.set_chain(SLOT, (OWNER, 4))
    for vip in VIPS.values():
        program.serve(SLOT, Protocol.UDP, 53, vip=vip)
    yield program
    for key in program.maps.services.read():
        program.maps.services.remove(key)


def fragment(family: int, part: str, ident: int = 7, hop: int = COLLECT) -> bytes:
    """One of the fragments of a datagram, which another node sent on to be collected."""
    ends = {"src": CLIENTS[family], "dst": VIPS[family]}
    first, more, offset = part == "first", part != "last", {"first": 0, "middle": 63, "last": 126}[part]
    payload = packets.udp(bytes(496), sport=40000, dport=53, **ends) if first else bytes(504)
    if family == 4:
        flags = (MORE_FRAGMENTS if more else 0) | offset
        ip = packets.ipv4(payload, protocol=packets.UDP, fragment=flags, ident=ident, **ends)
        ethertype = packets.IPV4
    else:
        ip = packets.ipv6(packets.fragment6(payload, packets.UDP, offset, more), protocol=44, **ends)
        ethertype = packets.IPV6
    source = bytes([2, 0x4C, 0x42, hop, 0, 15]) if hop else packets.ROUTER
    return packets.ethernet(ip, dst=HERE, src=source, ethertype=ethertype)


def sent(world: Any, packet: bytes) -> tuple[int, int]:
    """Return the node that a packet is sent to, and its hop."""
    verdict, after = world.send(packet)
    assert verdict == "tx"
    return after[5], after[9]


@pytest.mark.parametrize("family", [4, 6])
def test_all_fragments_go_after_the_first(world: Any, family: int) -> None:
    assert [sent(world, fragment(family, part)) for part in ("first", "middle", "last")] == [(OWNER, 1)] * 3


@pytest.mark.parametrize("family", [4, 6])
def test_a_fragment_before_its_first_waits_and_goes_after_it(world: Any, family: int) -> None:
    assert sent(world, fragment(family, "last")) == (OWNER, COLLECT + 1)
    assert sent(world, fragment(family, "first")) == (OWNER, 1)
    assert sent(world, fragment(family, "last", hop=COLLECT + 2)) == (OWNER, 1)


def test_a_fragment_without_its_first_waits_twice(world: Any) -> None:
    hops = [hop for hop in range(COLLECT, COLLECT + 4, 2) if sent(world, fragment(4, "last", hop=hop))[1] == hop + 1]
    assert hops == [COLLECT, COLLECT + 2]
    assert world.send(fragment(4, "last", hop=COLLECT + 4))[0] == "drop"


def test_what_the_first_showed_counts_for_a_second(world: Any) -> None:
    """A client may use the number of a packet again."""
    known = world.maps.pinned["first_fragments"]
    assert sent(world, fragment(4, "first")) == (OWNER, 1)
    (key,) = known.read_keys()
    value = known.lookup(key)
    assert value
    known.update(key, (1).to_bytes(8, "little") + value[8:])
    assert sent(world, fragment(4, "last")) == (OWNER, COLLECT + 1)


def test_a_flood_of_fragments_without_a_first_costs_a_counter(world: Any) -> None:
    """When the rate of those that wait is used up, nothing more is sent; nothing is remembered at any time."""
    spent = world.maps.pinned["spent"]
    for used_up_ns, event in ((0, C.FORWARD_DELAYED), (2**63, C.DROP_FRAGMENT)):
        before = world.counted()
        for number in range(FLOOD):
            spent.update(pack_index(LIMIT_DELAY), used_up_ns.to_bytes(8, "little") * possible_cpus())
            world.send(fragment(4, "last", ident=number))
        assert world.counted() - before == {(0, C.RX_FORWARDED): FLOOD, (0, event): FLOOD}
    assert not world.maps.pinned["first_fragments"].read_keys()


def test_a_flood_of_first_fragments_costs_a_table_of_one_size(world: Any) -> None:
    """The newest is known at any time."""
    for number in range(3 * FIRST_FRAGMENTS):
        assert sent(world, fragment(4, "first", ident=number)) == (OWNER, 1)
        if number % 500 == 0:
            assert sent(world, fragment(4, "last", ident=number)) == (OWNER, 1)
    assert 0 < len(world.maps.pinned["first_fragments"].read_keys()) <= FIRST_FRAGMENTS
