# SPDX-License-Identifier: Apache-2.0
"""Many requests to a real kernel at once: what it answers is what pyroute2 reads."""

import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from socket import if_nametoindex

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from support.two_links import ip, two_links
from support.waiting import wait_for

from agent.address import Address
from agent.netlink import batch
from agent.netlink.neighbor import NeighborEntry
from agent.netlink.route import KernelRoute

pytestmark = pytest.mark.lab

STALE, DELAY, PROBE, PERMANENT = 0x04, 0x08, 0x10, 0x80
MAC = bytes.fromhex("020000000055")
MANY = [base + n for base in (ip_address("10.0.0.64"), ip_address("2001:db8::100")) for n in range(batch.DATAGRAM + 1)]
"""More than two datagrams hold. No more: the kernel limits the neighbors of a family, over all namespaces."""


@pytest.fixture
def kernel() -> Iterator[IPRoute]:
    with two_links(), IPRoute() as found:
        yield found


def add_neighbors(addresses: list[Address], state: str, *words: str) -> None:
    lines = [f"neigh replace {one} lladdr {MAC.hex(':')} dev eth0 nud {state} {' '.join(words)}" for one in addresses]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def patient(key: str) -> None:
    """Have the kernel stay a minute in a state of eth0's neighbors that it leaves after seconds."""
    for family in ("ipv4", "ipv6"):
        name, value = {"retrans": ("retrans_time_ms", "60000"), "delay": ("delay_first_probe_time", "60")}[key]
        Path(f"/proc/sys/net/{family}/neigh/eth0/{name}").write_text(value)


def states(kernel: IPRoute) -> dict[str, int]:
    return {message.get("dst"): message["state"] for message in kernel.get_neighbours()}


def pyroute2_route(kernel: IPRoute, to: Address) -> KernelRoute | None:
    try:
        (found,) = kernel.route("get", dst=str(to))
    except NetlinkError:
        return None
    if found["type"] != 1:
        return None
    gateway = found.get("gateway") or (found.get("via") or {}).get("addr")
    mtu = (found.get("metrics") or {}).get("mtu") or 0
    return KernelRoute(to, found.get("oif"), ip_address(gateway) if gateway else None, mtu)


def test_neighbors_are_those_that_pyroute2_reads(kernel: IPRoute) -> None:
    eth0 = if_nametoindex("eth0")
    add_neighbors(MANY, "stale")
    add_neighbors(MANY[3:5], "permanent")
    found = batch.neighbors((eth0, one) for one in MANY)
    assert found == [NeighborEntry(one, eth0, MAC, 3 <= i < 5, not 3 <= i < 5) for i, one in enumerate(MANY)]
    dump = {(m["ifindex"], m.get("dst"), m.get("lladdr")) for m in kernel.get_neighbours(ifindex=eth0)}
    assert {(e.ifindex, str(e.address), e.mac.hex(":")) for e in found if e.mac} <= dump
    assert batch.neighbors([(eth0, IPv4Address("10.0.0.250")), (9999, MANY[0]), (eth0, MANY[1])]) == found[1:2]


def test_all_are_confirmed_at_once(kernel: IPRoute) -> None:
    eth0 = if_nametoindex("eth0")
    patient("delay")
    add_neighbors(MANY, "stale")
    before = states(kernel)
    assert {before[str(one)] for one in MANY} == {STALE}
    batch.confirm([(9999, MANY[0]), *((eth0, one) for one in MANY)])
    after = states(kernel)
    assert {after[str(one)] for one in MANY} <= {DELAY, PROBE}, "an interface that is gone stops no other"


def test_all_are_solicited_at_once(kernel: IPRoute) -> None:
    eth0, absent = if_nametoindex("eth0"), ip_address("10.0.0.251")
    patient("retrans")
    add_neighbors(MANY, "reachable")
    assert all(one.idle for one in batch.neighbors((eth0, one) for one in MANY))
    batch.probe([(9999, MANY[0]), *((eth0, one) for one in MANY), (eth0, absent)])
    after = states(kernel)
    assert {after[str(one)] for one in MANY} == {PROBE}, "an interface that is gone stops no other"
    assert not any(one.idle for one in batch.neighbors((eth0, one) for one in MANY)), "their MACs stay in use"
    assert all(one.mac for one in batch.neighbors((eth0, one) for one in MANY))
    assert batch.neighbors([(eth0, absent)]) == [], "none is made"


def test_a_neighbor_is_resolved(kernel: IPRoute) -> None:
    eth0 = if_nametoindex("eth0")
    there = [(eth0, ip_address("10.0.0.1")), (eth0, ip_address("2001:db8::1"))]
    assert batch.neighbors(there) == []

    def answered() -> bool:
        batch.confirm(there)  # again and again, as an agent does: the kernel asks three times, and then gives up
        return all(one.mac for one in batch.neighbors(there))

    wait_for(answered, "both answer")
    assert [one.mac for one in batch.neighbors(there)] == [bytes.fromhex("020000000001")] * 2


def test_what_someone_maintains_is_recognized(kernel: IPRoute) -> None:
    """The kernel would end each of these at a confirmation."""
    eth0, own = if_nametoindex("eth0"), MANY[:4]
    for one, words in zip(
        own, (["permanent"], ["noarp"], ["stale", "extern_learn"], ["stale", "managed"]), strict=True
    ):
        add_neighbors([one], *words)
    assert [one.maintained for one in batch.neighbors((eth0, one) for one in own)] == [True] * 4
    batch.confirm([(eth0, own[0])])
    assert not states(kernel)[str(own[0])] & PERMANENT, "otherwise the agent could confirm them too"


def test_routes_are_those_that_pyroute2_reads(kernel: IPRoute) -> None:
    ip("route", "add", "10.5.0.0/16", "via", "10.0.1.1", "mtu", "1400")
    ip("route", "add", "10.6.0.0/16", "via", "inet6", "2001:db8::1", "dev", "eth0")
    ip("route", "add", "2001:db8:5::/48", "via", "2001:db8::1", "mtu", "1300")
    for i, kind in enumerate(("blackhole", "unreachable", "prohibit", "throw")):
        ip("route", "add", kind, f"10.7.{i}.0/24")
    texts = ["10.0.0.11", "127.0.0.1", "192.0.2.1", "10.0.0.1", "10.5.0.1", "10.6.0.1", "2001:db8::1", "2001:db8:5::1"]
    texts += ["2001:db8:6::1", *(f"10.7.{i}.1" for i in range(4)), *(f"10.5.1.{n}" for n in range(200))]
    wanted = [ip_address(text) for text in texts]
    found = batch.routes(wanted)
    assert found == {one: pyroute2_route(kernel, one) for one in wanted}
    assert sum(one is not None for one in found.values()) == 205


def test_default_egress(kernel: IPRoute) -> None:
    eth0, eth1 = if_nametoindex("eth0"), if_nametoindex("eth1")
    own, own6, other = ip_address("10.0.0.11"), ip_address("2001:db8::11"), ip_address("10.0.1.11")
    assert batch.default_egress([own, own6]) == set()
    ip("route", "add", "default", "nexthop", "via", "10.0.0.1", "nexthop", "via", "10.0.1.1")
    assert batch.default_egress([own]) == {eth0, eth1}
    ip("rule", "add", "from", "10.0.1.11", "table", "77")
    ip("route", "add", "default", "via", "10.0.1.1", "table", "77")
    assert batch.default_egress([other]) == {eth1}, "a rule for packets from it"
    ip("route", "add", "default", "via", "2001:db8::1")
    assert batch.default_egress([own6]) == {eth0}
    assert batch.default_egress([other, own6]) == {eth0, eth1}
    assert batch.default_egress([]) == set()


def test_legs_name_the_gateways(kernel: IPRoute) -> None:
    eth0, eth1 = if_nametoindex("eth0"), if_nametoindex("eth1")
    own, world = ip_address("10.0.0.11"), ip_address("203.0.113.1")
    one, other = ip_address("10.0.0.1"), ip_address("10.0.1.1")
    assert batch.legs([(own, world), (own, one)]) == {(own, world): (), (own, one): ((eth0, None),)}
    ip("route", "add", "default", "nexthop", "via", "10.0.0.1", "nexthop", "via", "10.0.1.1")
    assert batch.legs([(own, world)]) == {(own, world): ((eth0, one), (eth1, other))}
    assert batch.legs([(ip_address("10.9.9.9"), world)]) == {(ip_address("10.9.9.9"), world): ()}, "not an address here"
    ip("link", "set", "eth1", "down")
    assert batch.legs([(own, world)]) == {(own, world): ((eth0, one),)}
    ip("route", "del", "default")
    ip("-4", "route", "add", "default", "via", "inet6", "2001:db8::1", "dev", "eth0")
    assert batch.legs([(own, world)]) == {(own, world): ((eth0, ip_address("2001:db8::1")),)}


def test_addresses_are_those_that_pyroute2_reads(kernel: IPRoute) -> None:
    many = [f"addr add 10.8.{n // 250}.{n % 250}/32 dev lo" for n in range(600)]
    many += [f"addr add 2001:db8:8::{n:x}/128 dev lo" for n in range(1, 300)]
    ip("link", "add", "tun9", "type", "veth", "peer", "name", "tun8")
    many.append("addr add 10.7.0.1 peer 10.7.0.2 dev tun9")
    subprocess.run(["ip", "-batch", "-"], input="\n".join(many), text=True, check=True)
    found = batch.addresses()
    dump = kernel.get_addr()
    assert found == {(m["index"], ip_address(m.get("local") or m.get("address"))) for m in dump}
    assert len(found) > 900, "more than one part of a dump"
