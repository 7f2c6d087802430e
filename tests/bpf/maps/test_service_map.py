# SPDX-License-Identifier: Apache-2.0
"""Services in real maps: what is written beside a service's entry, the filter of VIPs, and the cache of entries."""

import random
from collections import Counter
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from support import packets

from bpf.kernel import bpf_map
from bpf.layout.conf import NodeConf
from bpf.layout.limits import SERVICE_CACHE
from bpf.layout.service import Affinity, Protocol, ServiceEntry, ServiceFlag, ServiceKey
from bpf.layout.service_cache import cache_place
from bpf.maps.maps import Maps

VIP, OTHER_VIP = IPv4Address("10.99.0.1"), IPv4Address("10.99.0.2")
ECHO = ServiceKey(VIP, Protocol.TCP, 7000)
WEB = ServiceKey(VIP, Protocol.TCP, 80)
ANY = ServiceKey(VIP, Protocol.TCP, 0)
CONF = NodeConf(3, 0x0D, bytes(16))


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
