# SPDX-License-Identifier: Apache-2.0
"""Maps: writing and reading back, on real maps."""

import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import packets

from bpf.errors import BpfError
from bpf.kernel import bpf_map
from bpf.kernel.pin import open_pin, pin_object
from bpf.layout.conf import ConfFlag, NodeConf
from bpf.layout.echo import EchoState
from bpf.layout.limits import CHAIN, NODES, SERVICE_CACHE, SLOTS
from bpf.layout.map_spec import MapSpec, MapType
from bpf.layout.node import NodeEntry
from bpf.layout.service import Affinity, Protocol, ServiceEntry, ServiceFlag, ServiceKey
from bpf.layout.service_cache import cache_place
from bpf.maps.maps import Maps
from bpf.maps.table_map import Swap

ROWS = 65_536
VIP, OTHER_VIP = IPv4Address("10.99.0.1"), IPv4Address("10.99.0.2")
ECHO = ServiceKey(VIP, Protocol.TCP, 7000)
WEB = ServiceKey(VIP, Protocol.TCP, 80)
ANY = ServiceKey(VIP, Protocol.TCP, 0)
CONF = NodeConf(3, 0x0D, bytes(16))
NODE = NodeEntry(IPv4Address("10.0.0.13"), 0x0D, None)


@pytest.fixture
def folder(bpffs: Path, tmp_path: Path) -> Iterator[Path]:
    path = bpffs / tmp_path.name
    path.mkdir()
    yield path
    for pin in path.iterdir():
        pin.unlink()
    path.rmdir()


@pytest.fixture
def maps(folder: Path) -> Iterator[Maps]:
    maps = Maps.open(folder, ROWS)
    yield maps
    maps.close()


def table(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A row table and deadlines, all different."""
    chooser = np.random.default_rng(seed)
    return (
        chooser.integers(0, NODES, (ROWS, CHAIN), dtype=np.uint16),
        chooser.integers(0, 2**63, ROWS, dtype=np.uint64),
    )


def test_next_process_reads_everything_back(folder: Path) -> None:
    rows, grace = table(1)
    first = Maps.open(folder, ROWS)
    first.conf.write(CONF)
    first.nodes.write(3, NODE)
    first.nodes.write(NODES - 1, NODE)
    first.tables.swap(1, rows, grace)
    first.services.write(ECHO, ServiceEntry(1, up=True))
    first.echo_state.write(EchoState(1, 2, 3, 4, ready=True))
    first.close()

    second = Maps.open(folder, ROWS)
    assert second.conf.read() == CONF
    assert second.nodes.read() == {3: NODE, NODES - 1: NODE}
    assert second.services.read() == {ECHO: ServiceEntry(1, up=True)}
    assert second.echo_state.read() == EchoState(1, 2, 3, 4, ready=True)
    read, deadlines = second.tables.rows(1), second.tables.grace(1)
    assert read is not None
    assert deadlines is not None
    assert np.array_equal(read, rows)
    assert np.array_equal(deadlines, grace)
    assert second.tables.rows(2) is None
    assert second.missing() == []
    second.close()


def test_missing_entries_are_named(maps: Maps) -> None:
    assert maps.missing() == ["the node's conf"]
    maps.conf.write(CONF)
    assert maps.missing() == ["the node's own entry (index 3)"]
    maps.nodes.write(3, NODE)
    assert maps.missing() == []
    maps.services.write(ECHO, ServiceEntry(1, up=True))
    assert maps.missing() == ["rows of 10.99.0.1 TCP port 7000", "grace of 10.99.0.1 TCP port 7000"]
    maps.tables.swap(1, *table(1))
    assert maps.missing() == []


def test_swap_replaces_the_whole_table_in_time(maps: Maps) -> None:
    """The bound is ten times what it takes here: it catches a write per row, not a slow machine."""
    start = time.monotonic()
    for seed in range(5):
        rows, grace = table(seed)
        maps.tables.swap(1, rows, grace)
    assert (time.monotonic() - start) / 5 < 0.3
    read = maps.tables.rows(1)
    assert read is not None
    assert np.array_equal(read, rows)


@pytest.mark.parametrize("waits_once", [True, False], ids=["one batch", "a thread for each, before Linux 6.8"])
def test_services_with_equal_tables_share_one_map(
    maps: Maps, waits_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bpf.maps.table_map.batch_waits_once", lambda: waits_once)
    (rows, grace), (other_rows, other_grace) = table(1), table(2)
    maps.tables.swap_all(
        [Swap((1, 2, 9), lambda: grace, lambda: rows), Swap((3,), lambda: other_grace, lambda: other_rows, bank=1)]
    )
    assert all(np.array_equal(maps.tables.rows(slot), rows) for slot in (1, 2, 9))
    assert all(np.array_equal(maps.tables.grace(slot), grace) for slot in (1, 2, 9))
    assert len(inner_ids(maps, "rows", (1, 2, 9))) == len(inner_ids(maps, "grace", (1, 2, 9))) == 1
    assert np.array_equal(maps.tables.rows(3, bank=1), other_rows)
    assert maps.tables.rows(3) is None

    maps.tables.swap_all([Swap((2,), lambda: other_grace), Swap((9,), lambda: other_grace, lambda: other_rows)])
    assert np.array_equal(maps.tables.rows(2), rows), "only its deadlines have changed"
    assert np.array_equal(maps.tables.grace(2), other_grace)
    assert np.array_equal(maps.tables.rows(9), other_rows)
    assert np.array_equal(maps.tables.rows(1), rows), "what another service no longer shares stays"


def inner_ids(maps: Maps, name: str, indexes: Iterable[int]) -> set[bytes | None]:
    fd = maps.pinned[name].fd
    return {bpf_map.lookup(fd, index.to_bytes(4, "little"), 4) for index in indexes}


def test_table_of_a_wrong_shape_is_refused(maps: Maps) -> None:
    rows, grace = table(1)
    with pytest.raises(ValueError, match=r"^rows: uint16\(65536, 4\) given, uint16\(65536, 8\) wanted"):
        maps.tables.swap(1, rows[:, :4], grace)
    with pytest.raises(ValueError, match=r"^grace: "):
        maps.tables.swap(1, rows, grace[:100])
    with pytest.raises(ValueError, match=r"^rows: int64"):
        maps.tables.swap(1, rows.astype(np.int64), grace)
    assert maps.tables.rows(1) is None


def raw_services(maps: Maps) -> dict[bytes, bytes | None]:
    fd = maps.pinned["services"].fd
    return {key: bpf_map.lookup(fd, key, 8) for key in bpf_map.keys(fd, 20)}


PORTS_ONLY = ServiceEntry(0, up=False).pack(ServiceFlag.PORTS_ONLY)


def collected_by(service: ServiceEntry) -> bytes:
    return service.pack(ServiceFlag.PORTS_ONLY)


def test_any_port_has_an_entry_as_long_as_a_service_has_a_port(maps: Maps) -> None:
    """The entry of port 0 shows that a fragment is to a VIP, that of protocol 0 shows it for other packets.

    By the lowest port's table all nodes collect the fragments.
    """
    maps.conf.write(CONF)
    maps.services.write(ECHO, ServiceEntry(1, up=True))
    maps.services.write(WEB, ServiceEntry(2, up=True))
    assert raw_services(maps)[ANY.pack()] == collected_by(ServiceEntry(2, up=True))
    assert raw_services(maps)[ANY.of_vip().pack()] == PORTS_ONLY
    assert maps.services.read().keys() == {ECHO, WEB}

    maps.services.write(ANY, ServiceEntry(3, up=True))
    assert raw_services(maps)[ANY.pack()] == ServiceEntry(3, up=True).pack()
    maps.services.write(WEB, ServiceEntry(2, up=False))
    assert maps.services.read() == {
        ECHO: ServiceEntry(1, up=True), WEB: ServiceEntry(2, up=False), ANY: ServiceEntry(3, up=True),
    }  # fmt: skip

    maps.services.remove(ANY)
    assert raw_services(maps)[ANY.pack()] == collected_by(ServiceEntry(2, up=False))
    maps.services.remove(ECHO)
    assert raw_services(maps)[ANY.pack()] == collected_by(ServiceEntry(2, up=False))
    maps.services.remove(WEB)
    maps.services.remove(WEB)
    assert raw_services(maps) == {}


def test_fragments_are_served_for_a_single_service_without_ports_in_its_affinity(maps: Maps) -> None:
    by_address = ServiceEntry(1, up=True, affinity=Affinity.TWO_TUPLE)
    maps.services.write(ECHO, by_address)
    fragments = by_address.pack(ServiceFlag.FRAGMENTS | ServiceFlag.PORTS_ONLY)
    assert raw_services(maps)[ANY.pack()] == fragments
    web = ServiceEntry(2, up=True, affinity=Affinity.TWO_TUPLE)
    maps.services.write(WEB, web)
    assert raw_services(maps)[ANY.pack()] == collected_by(web)
    maps.services.remove(WEB)
    assert raw_services(maps)[ANY.pack()] == fragments
    maps.services.remove(ECHO)
    maps.services.write(ANY, by_address)
    assert raw_services(maps)[ANY.pack()] == by_address.pack(ServiceFlag.FRAGMENTS)
    maps.services.write(ANY, ServiceEntry(1, up=True, affinity=Affinity.THREE_TUPLE))
    assert raw_services(maps)[ANY.pack()] == ServiceEntry(1, up=True, affinity=Affinity.THREE_TUPLE).pack()


def test_fragments_are_not_collected_by_a_service_of_mode_nat(maps: Maps) -> None:
    """It has no table. Where all of a VIP's services are NAT's, the entry shows that fragments are dropped."""
    web, echo = ServiceEntry(2, up=True, nat=True), ServiceEntry(1, up=True)
    maps.services.write(WEB, web)
    assert raw_services(maps)[ANY.pack()] == collected_by(web)
    assert maps.services.read() == {WEB: web}
    maps.services.write(ECHO, echo)
    assert raw_services(maps)[ANY.pack()] == collected_by(echo), "although its port is higher"


def cache(maps: Maps) -> dict[int, tuple[bytes, bytes, int]]:
    """The entries of the service cache: place -> service, key, crowded."""
    fd = maps.pinned["service_cache"].fd
    entries = {place: bpf_map.lookup(fd, place.to_bytes(4, "little"), 32) for place in range(SERVICE_CACHE)}
    return {p: (e[:8], e[8:28], int.from_bytes(e[28:], "little")) for p, e in entries.items() if e and any(e)}


@pytest.mark.parametrize("steps", [20, pytest.param(150, marks=pytest.mark.slow)])
def test_service_cache_follows_the_map(maps: Maps, steps: int) -> None:
    """After random changes a reader of the cache, and of the map where an entry is crowded, finds the map's entries."""
    choose = random.Random(11)
    present: set[ServiceKey] = set()
    for step in range(steps):
        vip = choose.choice((IPv4Address(f"10.99.0.{choose.randrange(4)}"), IPv6Address(choose.randrange(1, 4))))
        key = ServiceKey(vip, choose.choice((Protocol.TCP, Protocol.UDP)), choose.choice((0, 53, 80, 443)))
        if key in present and step % 3:
            maps.services.remove(key)
            present.discard(key)
        else:
            maps.services.write(key, ServiceEntry(1 + step, up=bool(step % 2)))
            present.add(key)
        held, entries = raw_services(maps), cache(maps)
        places = Counter(cache_place(ServiceKey.unpack(raw)) for raw in held)
        assert places.keys() == entries.keys()
        for place, (service, raw, crowded) in entries.items():
            assert held[raw] == service
            assert cache_place(ServiceKey.unpack(raw)) == place
            assert crowded == (places[place] > 1)


def test_service_cache_is_restored_after_a_kill_between_two_writes(maps: Maps) -> None:
    """The map has one service that the cache has with other contents, and lacks one that the cache still has."""
    maps.services.write_all({ECHO: ServiceEntry(1, up=True), WEB: ServiceEntry(2, up=True)})
    services = maps.pinned["services"]
    services.update(ECHO.pack(), ServiceEntry(1, up=False).pack(ServiceFlag(0)))
    services.delete(WEB.pack())
    maps.services.restore_cache()
    held = raw_services(maps)
    assert {(raw, service) for service, raw, crowded in cache(maps).values() if not crowded} == set(held.items())


def test_services_that_share_a_place_are_both_found(program: Any) -> None:
    """The program looks the service that is not in the cache up in the map."""
    other = next(
        p for p in range(1, 65536)
        if p != 7000 and cache_place(ServiceKey(VIP, Protocol.TCP, p)) == cache_place(ECHO)
    )  # fmt: skip
    for slot, number in ((1, 7000), (2, other)):
        program.set_chain(slot, (1 + slot,))
        program.serve(slot, Protocol.TCP, number)
    for slot, number in ((1, 7000), (2, other)):
        ends = {"src": "10.1.0.2", "dst": str(VIP)}
        segment = packets.ipv4(packets.tcp(sport=1, dport=number, **ends), protocol=packets.TCP, **ends)
        verdict, after = program.send(packets.ethernet(segment, dst=packets.HERE, src=packets.ROUTER))
        assert (verdict, after[5]) == ("tx", 1 + slot)


@pytest.mark.parametrize("name", ["node_prefixes", "deny_list"])
def test_prefixes(maps: Maps, name: str) -> None:
    prefixes = getattr(maps, name)
    maps.conf.write(CONF)
    first = {ip_network("10.0.0.0/8"), ip_network("10.0.0.0/16"), ip_network("0.0.0.0/0"), ip_network("2001:db8::/32")}
    prefixes.write(first)
    assert prefixes.read() == first
    second = {ip_network("::/0"), ip_network("10.0.0.0/16")}
    prefixes.write(second)
    assert prefixes.read() == second
    prefixes.write([])
    assert prefixes.read() == set()


@pytest.mark.parametrize(
    ("prefixes", "first"),
    [
        (["10.0.0.0/24"], "0a000000ffffff00"),
        (["10.0.0.0/24", "10.1.0.0/16", "2001:db8::/8"], "0a010000ffff0000"),
        (["2001:db8::/64"], "0000000000000000"),
        (["0.0.0.0/0"], "0000000000000000"),
        ([], "0000000000000000"),
    ],
)
def test_one_node_prefix_is_compared_first(maps: Maps, prefixes: list[str], first: str) -> None:
    """An entry of zeros is none. 0.0.0.0/0 has no mask, so the program finds it in the map alone."""
    maps.node_prefixes.write([ip_network("192.0.2.0/24")])
    maps.node_prefixes.write(ip_network(prefix, strict=False) for prefix in prefixes)
    assert maps.pinned["node_prefix4"].entry(0).hex() == first


def test_conf_has_a_flag_for_the_deny_list(maps: Maps) -> None:
    def flags() -> ConfFlag:
        return maps.conf.flags()

    maps.deny_list.write([ip_network("192.0.2.0/24")])
    maps.conf.write(CONF)
    assert flags() == ConfFlag.DENY
    maps.services.write(ECHO, ServiceEntry(1, up=True))
    assert flags() == ConfFlag.DENY
    maps.deny_list.write([])
    assert flags() == ConfFlag(0)
    maps.deny_list.write([ip_network("192.0.2.0/24")])
    assert flags() == ConfFlag.DENY


def test_vip_filter_follows_the_services(maps: Maps) -> None:
    maps.services.write(ECHO, ServiceEntry(1, up=True))
    assert maps.conf.vip_filter() == 0  # conf is not there yet
    maps.conf.write(CONF)
    one = maps.conf.vip_filter()
    assert one.bit_count() == 1
    maps.services.write(ServiceKey(OTHER_VIP, Protocol.UDP, 53), ServiceEntry(2, up=True))
    both = maps.conf.vip_filter()
    assert both.bit_count() == 2
    assert maps.conf.read() == CONF
    maps.conf.write(CONF)
    assert maps.conf.vip_filter() == both
    maps.services.remove(ECHO)
    assert maps.conf.vip_filter() == both & ~one


def test_limits(maps: Maps) -> None:
    with pytest.raises(BpfError, match="node index 1024 is not in 1-1023: too many nodes"):
        maps.nodes.write(NODES, NODE)
    with pytest.raises(BpfError, match="node index 0 is not"):
        maps.nodes.write(0, NODE)
    with pytest.raises(BpfError, match="service slot 256 is not in 1-255: too many services"):
        maps.services.write(ECHO, ServiceEntry(SLOTS, up=True))


def test_pin_of_another_shape_is_not_overwritten(folder: Path) -> None:
    foreign = bpf_map.create_map(MapSpec("foreign", MapType.ARRAY, 4, 8, 7))
    pin_object(foreign, folder / "nodes")
    with pytest.raises(BpfError, match=r"/nodes: a BPF map of another shape is pinned here"):
        Maps.open(folder, ROWS)
    again = open_pin(folder / "nodes")
    assert again is not None
    assert bpf_map.map_id(again) == bpf_map.map_id(foreign)
