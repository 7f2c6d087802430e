# SPDX-License-Identifier: Apache-2.0
"""The maps of NAT after each change, and what the next agent takes over."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, ip_address

import pytest
from support.bpffs import new_bpffs
from support.nat_config import TEXT, nat_config

from agent.config.schema import Config
from agent.forwarding.next_hop import NextHop
from agent.nat.backend import backends_of
from agent.nat.writer import RETIRE_S, NatWriter
from agent.netlink.batch import WORLD
from bpf.layout.map_spec import NatShape
from bpf.layout.nat import NatConf
from bpf.layout.nat_backend import BACKENDS, BackendEntry, Choice, NatHop
from bpf.layout.service import Forward
from bpf.maps.maps import Maps
from bpf.maps.nat_maps import NatMaps

CONFIG = nat_config()
SLOTS, TABLE = {"web": 1, "dns": 2}, 9
A, B = IPv4Address("10.9.0.11"), IPv4Address("10.9.0.12")
ALL = {one.name: [key for key in backends_of(CONFIG) if key.service == one.key] for _, one in CONFIG.nat_services}
HOP = NextHop(b"\2\0\0\0\0\1", mtu=1400)
OTHER = NextHop(b"\2\0\0\0\0\2", False, 7, b"\2\0\0\0\0\3", 5)


@pytest.fixture
def maps() -> Iterator[NatMaps]:
    with new_bpffs("nat-writer") as folder:
        opened = Maps.open(folder, 4096, NatShape(1 << 16, ipv6=False))
        assert opened.nat
        yield opened.nat
        opened.close()


def writer(maps: NatMaps, config: Config = CONFIG) -> NatWriter:
    return NatWriter(config, maps, SLOTS, TABLE)


def test_what_the_program_reads(maps: NatMaps) -> None:
    made = writer(maps)
    assert maps.conf() is None, "the first `apply` writes"
    made.apply(True, {"web": ALL["web"][1:], "dns": ALL["dns"]})
    assert maps.conf() == NatConf(1 << 16, TABLE, IPv4Network("10.255.0.0/31"), hop4=BACKENDS)
    places = {(one.address, one.port): index for index, one in maps.backends().items()}
    assert places == made.indexes
    assert places.keys() == {(key.address, key.port) for key in backends_of(CONFIG)}
    assert set(maps.service(1).choices) == {Choice(places[B, 8443], 50)}
    assert maps.service(2).choices == (Choice(places[A, 53], 100),)
    made.apply(False, {})
    conf = maps.conf()
    assert conf
    assert not conf.up
    assert maps.service(1).choices == ()
    following = writer(maps, nat_config(TEXT.replace("nat: {", "nat: {forward: ipip, ")))
    following.apply(False, {})
    conf = maps.conf()
    assert conf
    assert conf.forward is Forward.IPIP


def test_new_sessions_get_the_former_pool_until_all_nodes_have_the_new_one(maps: NatMaps) -> None:
    """And an agent that starts in between goes on so, before it knows what the others have."""
    writer(maps).apply(True, ALL)
    previous = "rows: 4096, previous: {nat: {pool: 10.255.0.0/31, sessions: 65536}}"
    config = nat_config(TEXT.replace("10.255.0.0/27", "10.255.1.0/27").replace("rows: 4096", previous))
    before, after = IPv4Network("10.255.0.0/31"), IPv4Network("10.255.1.0/31")
    pools = []
    for from_former in (True, True, False, False):
        made = writer(maps, config)
        for step in (lambda one: one.set_mtu(1500), lambda one, former=from_former: one.apply(True, ALL, former)):
            step(made)
            conf = maps.conf()
            assert conf
            pools.append((conf.pool, conf.former))
    assert pools == [(before, after)] * 5 + [(after, before)] * 3


def test_hops_are_written_at_once_for_all_that_share_an_address(maps: NatMaps) -> None:
    made = writer(maps)
    made.apply(True, ALL)
    assert made.targets == {A, B, IPv4Address("10.9.0.13"), WORLD[4]}
    made.set_hop(A, HOP)
    made.set_hop(WORLD[4], OTHER)
    hop = NatHop(HOP.mac, mtu=1400)
    assert maps.hop(made.indexes[A, 8443]) == maps.hop(made.indexes[A, 53]) == hop
    assert maps.hop(BACKENDS) == NatHop(OTHER.mac, 7, OTHER.source, 5)
    assert made.known_hop(A) == HOP
    assert made.known_hop(B) is None
    assert made.problems({7}) == [
        "there is no route to backend 10.9.0.12:8443: add one: nothing can be sent there",
        "there is no route to backend 10.9.0.13:53: add one: nothing can be sent there",
    ]
    made.set_hop(B, NextHop(None))
    made.set_hop(IPv4Address("10.9.0.13"), HOP)
    assert made.problems({8}) == [
        "the next hop to backend 10.9.0.12:8443 does not answer, so nothing can be sent there: see whether it is up "
        "(`ip neigh`)",
        "IPv4 clients of NAT are reached by an interface without the program: list it in node.interfaces",
    ]


def test_clients_of_given_prefixes_are_looked_up_there(maps: NatMaps) -> None:
    config = nat_config(TEXT.replace("{interface: eth0}", "{interface: eth0, clients: [172.16.0.0/12]}"))
    assert ip_address("172.16.0.1") in writer(maps, config).targets


def test_next_agent_takes_over_indexes_hops_choices_and_flags(maps: NatMaps) -> None:
    made = writer(maps)
    made.apply(True, {"web": ALL["web"][1:], "dns": ALL["dns"]})
    made.set_hop(A, HOP)
    made.set_mtu(1450)
    maps.set_watched(True)
    before = maps.conf()
    first = "{address: 10.9.0.11, port: 8443}, "
    reordered = nat_config(TEXT.replace(first, "{address: 10.9.0.10, port: 1}, " + first))
    successor = writer(maps, reordered)
    assert {place: successor.indexes[place] for place in made.indexes} == made.indexes
    assert successor.known_hop(A) == HOP
    assert {key for key in backends_of(CONFIG) if successor.reaches(key)} == {
        key for key in backends_of(CONFIG) if key.address == A
    }, "all that share the address"
    assert set(successor.usable["web"]) == {ALL["web"][1]}
    successor.apply(True, successor.usable)
    assert maps.conf() == before


def test_mss_leaves_room_for_the_tunnel(maps: NatMaps) -> None:
    made = writer(maps)
    made.apply(True, ALL)
    made.set_mtu(1500)
    conf = maps.conf()
    assert conf
    assert (conf.mss4, conf.mss6) == (1500 - 28 - 40, 1500 - 28 - 60)
    l2 = writer(maps, nat_config(TEXT.replace("sessions:", "forward: l2, sessions:")))
    l2.set_mtu(1500)
    conf = maps.conf()
    assert conf
    assert (conf.mss4, conf.mss6) == (0, 0)


def test_backend_that_left_the_configuration_stays_as_long_as_it_has_sessions(maps: NatMaps) -> None:
    made = writer(maps)
    made.apply(True, ALL)
    made.set_hop(B, HOP)
    index = made.indexes[B, 8443]
    without = nat_config(TEXT.replace(", {address: 10.9.0.12, port: 8443, weight: 50}", ""))
    after = writer(maps, without)
    after.apply(True, {"web": ALL["web"], "dns": ALL["dns"]})
    maps.loads[index, 0] = 1
    assert not after.retire(0.0)
    assert not after.retire(2 * RETIRE_S)
    maps.loads[index, 0] = 0
    assert not after.retire(3 * RETIRE_S)
    assert B in after.targets
    assert maps.backends()[index] == BackendEntry(B, 8443, index)
    assert after.retire(4 * RETIRE_S)
    assert index not in maps.backends()
    assert maps.hop(index) is None
    assert B not in after.targets
    again = writer(maps)
    again.apply(True, ALL)
    assert again.indexes[B, 8443] == index
