# SPDX-License-Identifier: Apache-2.0
"""Rules of a service's entry and of the node's lists: affinity, fragments, no member, the deny list, martians."""

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import numpy as np
import pytest
from support import packets
from support.packets import HERE, MORE_FRAGMENTS, ROUTER

from bpf.layout.counter import Counter
from bpf.layout.limits import CHAIN
from bpf.layout.service import Affinity, Protocol
from bpf.reference.flow_hash import row_of

KEY, ROWS = bytes(range(16)), 4096
VIPS = {4: "10.99.0.1", 6: "2001:db8:99::1"}
CLIENTS = {4: "10.1.0.2", 6: "2001:db8:1::2"}
SLOT = 1
C = Counter


@pytest.fixture
def world(program: Any) -> Iterator[Any]:
    yield program
    program.maps.deny_list.write([])
    for key in program.maps.services.read():
        program.maps.services.remove(key)


def frame(family: int, sport: int = 40000, dport: int = 53, client: str = "", fragment: int = 0) -> bytes:
    ends = {"src": client or CLIENTS[family], "dst": VIPS[family]}
    datagram = packets.udp(b"question", sport=sport, dport=dport, **ends)
    if family == 4:
        ip = packets.ipv4(datagram, protocol=packets.UDP, fragment=fragment, **ends)
    else:
        ip = packets.ipv6(datagram, protocol=packets.UDP, **ends)
    return packets.ethernet(ip, dst=HERE, src=ROUTER, ethertype=packets.IPV4 if family == 4 else packets.IPV6)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("affinity", list(Affinity))
def test_affinity_decides_the_row(world: Any, affinity: Affinity, family: int) -> None:
    """Each flow goes to its row of the reference implementation; what the affinity omits makes no difference."""
    world.serve(SLOT, Protocol.UDP, 0, vip=VIPS[family], affinity=affinity)
    rows = np.zeros((ROWS, CHAIN), np.uint16)
    rows[:, 0] = 2 + np.arange(ROWS) % 7
    world.maps.tables.swap(SLOT, rows, np.zeros(ROWS, np.uint64))
    seen = set()
    for sport in range(40000, 40020):
        for dport in range(50, 60):
            ends = (ip_address(CLIENTS[family]), sport, ip_address(VIPS[family]), dport)
            row = row_of(KEY, ROWS, *ends, affinity)
            assert world.send(frame(family, sport, dport))[1][5] == 2 + row % 7
            seen.add((row, sport if affinity is Affinity.FIVE_TUPLE else 0, dport))
    distinct = len({row for row, *_ in seen})
    assert distinct == 1 if affinity is Affinity.TWO_TUPLE else distinct > 5
    assert (len({row for row, _, dport in seen if dport == 50}) == 1) == (affinity is not Affinity.FIVE_TUPLE)


FRAGMENTS = {"first": MORE_FRAGMENTS, "middle": MORE_FRAGMENTS | 50, "last": 100}


@pytest.mark.parametrize("which", FRAGMENTS)
@pytest.mark.parametrize("port", [0, 53])
def test_fragments_are_served_if_no_port_is_needed(world: Any, which: str, port: int) -> None:
    """All fragments of a client go where its whole packets go."""
    world.serve(SLOT, Protocol.UDP, port, affinity=Affinity.TWO_TUPLE)
    rows = np.zeros((ROWS, CHAIN), np.uint16)
    rows[:, 0] = 2 + np.arange(ROWS) % 7
    world.maps.tables.swap(SLOT, rows, np.zeros(ROWS, np.uint64))
    for last in range(1, 30):
        client = f"10.1.0.{last}"
        outcome = world.observe(frame(4, client=client, fragment=FRAGMENTS[which]))
        assert outcome.events == {(SLOT, C.RX): 1, (SLOT, C.FORWARD_FIRST): 1}
        assert outcome.packet[:12] == world.send(frame(4, client=client))[1][:12]
    world.set_chain(SLOT, (1, 2))
    outcome = world.observe(frame(4, fragment=FRAGMENTS[which]))
    assert outcome.events == {(SLOT, C.RX): 1, (SLOT, C.DELIVER_FRAGMENT): 1}


def test_fragments_are_collected_if_two_services_share_them_or_a_port_decides(world: Any) -> None:
    world.set_chain(SLOT, (2, 3))
    world.set_chain(2, (3, 2))
    collected = {(0, C.RX): 1, (0, C.FORWARD_FRAGMENT): 1}
    world.serve(SLOT, Protocol.UDP, 53, affinity=Affinity.THREE_TUPLE)
    assert world.observe(frame(4, fragment=100)).events == collected
    world.serve(SLOT, Protocol.UDP, 53, affinity=Affinity.TWO_TUPLE)
    assert world.observe(frame(4, fragment=100)).events == {(SLOT, C.RX): 1, (SLOT, C.FORWARD_FIRST): 1}
    for port, to in ((54, 2), (52, 3)):  # by the table of the lowest port
        world.serve(2, Protocol.UDP, port, affinity=Affinity.TWO_TUPLE)
        outcome = world.observe(frame(4, fragment=100))
        assert outcome.events == collected
        assert outcome.packet[5] == to


def test_unserved_port_of_a_service_with_fragments_passes(world: Any) -> None:
    world.set_chain(SLOT, (2, 3))
    world.serve(SLOT, Protocol.UDP, 53, affinity=Affinity.TWO_TUPLE)
    assert world.observe(frame(4, dport=54)).events == {(0, C.PASS_NO_SERVICE): 1}


@pytest.mark.parametrize("family", [4, 6])
def test_no_member(world: Any, family: int) -> None:
    for drop, event, verdict in ((False, C.PASS_NO_MEMBER, "pass"), (True, C.DROP_NO_MEMBER, "drop")):
        world.serve(SLOT, Protocol.UDP, 53, vip=VIPS[family], drop_no_member=drop)
        world.set_chain(SLOT, ())
        outcome = world.observe(frame(family))
        assert (outcome.verdict, outcome.events) == (verdict, {(SLOT, C.RX): 1, (SLOT, event): 1})
        world.set_chain(SLOT, (2,))
        assert world.send(frame(family))[0] == "tx"


@pytest.mark.parametrize("family", [4, 6])
def test_deny_list_applies_from_the_next_packet_on(world: Any, family: int) -> None:
    """To all packets to a VIP from its prefixes, and to no other packets."""
    world.serve(SLOT, Protocol.UDP, 53, vip=VIPS[family])
    world.set_chain(SLOT, (2,))
    inside, outside = ("10.1.0.2", "10.1.1.2") if family == 4 else ("2001:db8:1::2", "2001:db8:2::2")
    prefix = ip_network("10.1.0.0/24" if family == 4 else "2001:db8:1::/48")
    assert world.send(frame(family, client=inside))[0] == "tx"
    world.maps.deny_list.write([prefix])
    for packet in (frame(family, client=inside), frame(family, client=inside, dport=99)):
        outcome = world.observe(packet)
        assert (outcome.verdict, outcome.events) == ("drop", {(0, C.DROP_DENIED): 1})
    assert world.send(frame(family, client=outside))[0] == "tx"
    other = ip_network("::/0" if family == 4 else "0.0.0.0/0")
    world.maps.deny_list.write([other])
    assert world.send(frame(family, client=inside))[0] == "tx"
    world.maps.deny_list.write([prefix])
    world.maps.deny_list.write([])
    assert world.send(frame(family, client=inside))[0] == "tx"


def test_deny_list_applies_to_vips_only(world: Any) -> None:
    """A prefix that is too wide must not cut BGP or SSH: packets to the node itself pass."""
    world.serve(SLOT, Protocol.UDP, 53)
    world.maps.deny_list.write([ip_network("0.0.0.0/0")])
    ends = {"src": "10.1.0.2", "dst": "10.0.0.11"}
    ssh = packets.ipv4(packets.tcp(sport=5, dport=22, **ends), protocol=packets.TCP, **ends)
    assert world.observe(packets.ethernet(ssh, dst=HERE, src=ROUTER)).events == {(0, C.PASS_NO_SERVICE): 1}


@pytest.mark.parametrize("source", ["0.0.0.1", "127.0.0.1", "169.254.1.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"])
def test_martians(world: Any, source: str) -> None:
    world.serve(SLOT, Protocol.UDP, 53)
    world.set_chain(SLOT, (2,))
    for port in (53, 54):
        outcome = world.observe(frame(4, client=source, dport=port))
        assert (outcome.verdict, outcome.events) == ("drop", {(0, C.DROP_MARTIAN): 1})


@pytest.mark.parametrize("source", ["1.0.0.1", "126.255.255.255", "128.0.0.1", "169.253.1.1", "223.255.255.255"])
def test_neighbors_of_martians(world: Any, source: str) -> None:
    world.serve(SLOT, Protocol.UDP, 53)
    world.set_chain(SLOT, (2,))
    assert world.send(frame(4, client=source))[0] == "tx"


def test_land(world: Any) -> None:
    world.serve(SLOT, Protocol.UDP, 53)
    assert world.observe(frame(4, client=VIPS[4])).events == {(0, C.DROP_LAND): 1}
