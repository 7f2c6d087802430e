# SPDX-License-Identifier: Apache-2.0
"""The next hops of addresses follow a real kernel's routes, links and neighbors."""

import asyncio
import contextlib
import errno
import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from socket import if_nametoindex
from typing import Any

import pytest
from support.two_links import ip, two_links

from agent.address import Address
from agent.forwarding.next_hop import NextHop
from agent.forwarding.route_monitor import RouteMonitor
from agent.netlink import batch
from agent.netlink.connection import Netlink
from agent.netlink.link import Link
from agent.netlink.neighbor import Neighbor, NeighborEntry
from agent.netlink.route import KernelRoute

pytestmark = pytest.mark.lab


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def following(addresses: Iterable[Address], hops: dict[Address, NextHop]) -> AsyncIterator[RouteMonitor]:
    """Run a monitor of these addresses; eth0 and eth1 are its uplinks."""
    netlink = Netlink()
    uplinks = [if_nametoindex("eth0"), if_nametoindex("eth1")]
    monitor = RouteMonitor(netlink, uplinks, hops.__setitem__, lambda *_: None, lambda _: None)
    monitor.follow(addresses, lambda _: None)
    running = asyncio.create_task(monitor.run())
    yield monitor
    assert not running.done()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    netlink.close()


def states() -> dict[str, set[str]]:
    text = subprocess.check_output(["ip", "-j", "neigh", "show", "nud", "all"])
    return {entry["dst"]: set(entry["state"]) for entry in json.loads(text)}


def test_next_hops_follow_the_kernel() -> None:
    far, near, near6 = IPv4Address("10.5.0.9"), IPv4Address("10.0.0.1"), ip_address("2001:db8::1")
    hops: dict[Address, NextHop] = {}
    macs: dict[int, bytes] = {}
    seen: list[Mapping[int, Link]] = []

    async def scenario(router: int) -> None:
        netlink = Netlink()
        index = {link.name: link.index for link in (await netlink.links()).values()}
        own = {link.index: link.mac for link in (await netlink.links()).values()}
        routes = RouteMonitor(netlink, [index["eth0"], index["eth1"]], hops.__setitem__, macs.__setitem__, seen.append)
        routes.follow({far, near, near6}, lambda _: None)
        following = asyncio.create_task(routes.run())

        def hop(number: int, on_link: bool = False, mtu: int = 1500) -> NextHop:
            out = index[f"eth{number}"]
            return NextHop(bytes.fromhex(f"02000000000{number + 1}"), on_link, out, own[out], 0, mtu)

        await until(lambda: hops.get(near) == hop(0, on_link=True), "a neighbor is resolved")
        await until(lambda: hops.get(near6) == hop(0, on_link=True), "in IPv6 too")
        assert {link.name for link in seen[-1].values()} >= {"eth0", "eth1"}
        assert far not in hops, "no route leads to it"
        ip("route", "add", "10.5.0.0/16", "via", "10.0.0.1")
        await until(lambda: hops.get(far) == hop(0), "a route appears")
        ip("route", "replace", "10.5.0.0/16", "via", "10.0.1.1", "mtu", "1400")
        await until(lambda: hops[far] == hop(1, mtu=1400), "another uplink, and the route's MTU")
        ip("link", "set", "r1", "address", "02:00:00:00:00:09", inside=router)
        ip("neigh", "flush", "dev", "eth1")
        changed = replace(hop(1, mtu=1400), mac=bytes.fromhex("020000000009"))
        await until(lambda: hops[far] == changed, "the router was replaced")
        ip("link", "set", "r0", "down", inside=router)
        ip("route", "del", "10.5.0.0/16")
        ip("route", "add", "10.6.0.0/16", "via", "10.0.1.1")  # a route to no followed address causes no lookup
        await asyncio.sleep(0)
        assert hops[far] == changed, "without a route the previous next hop stays"
        ip("link", "set", "r0", "up", inside=router)
        ip("route", "add", "10.5.0.0/16", "via", "10.0.0.1")
        await until(lambda: hops[far] == hop(0), "the first uplink again")
        ip("link", "set", "eth0", "address", "02:00:00:00:00:77")
        await until(lambda: macs == {index["eth0"]: bytes.fromhex("020000000077")}, "the uplink has another MAC")
        await until(lambda: hops[far].source == bytes.fromhex("020000000077"), "frames have it as their source")
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        netlink.close()

    assert not os.geteuid(), "needs root"
    assert Path("/proc/thread-self/ns/net").exists()
    with two_links() as router:
        asyncio.run(scenario(router))


def test_all_neighbors_are_confirmed_in_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches are replaced here: the kernel may have no room for so many neighbors (net.ipv4.neigh.default)."""
    many = [ip_address(first) + n for first in ("10.0.8.1", "2001:db8::1:0") for n in range(500)]
    permanent, mac = many[7], bytes.fromhex("020000000001")
    confirmed: Counter[Address] = Counter()
    hops: dict[Address, NextHop] = {}

    def routes(wanted: Iterable[Address]) -> dict[Address, KernelRoute | None]:
        return {one: KernelRoute(one, if_nametoindex("eth0")) for one in wanted}

    def neighbors(wanted: Iterable[Neighbor]) -> list[NeighborEntry]:
        return [NeighborEntry(address, ifindex, mac, address == permanent) for ifindex, address in wanted]

    def confirm(wanted: Iterable[Neighbor]) -> set[Neighbor]:
        confirmed.update(address for _, address in wanted)
        return set()

    async def scenario() -> None:
        async with following(many, hops):
            await until(lambda: len(confirmed) == len(many) - 1, "a round")
        assert confirmed == Counter(set(many) - {permanent}), "each once"
        assert {address for address, hop in hops.items() if hop.mac == mac} == set(many)

    monkeypatch.setattr("agent.forwarding.route_monitor.CONFIRM_S", 3600.0)  # there is no second round
    monkeypatch.setattr(batch, "routes", routes)
    monkeypatch.setattr(batch, "neighbors", neighbors)
    monkeypatch.setattr(batch, "confirm", confirm)
    with two_links():
        asyncio.run(scenario())


def test_neighbors_without_room_or_answer_cost_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has no room for every tenth; of the others every second answers. These are confirmed in each round."""
    many = [ip_address("10.0.8.1") + n for n in range(300)]
    refused, silent = set(many[::10]), set(many[1::2])
    asked: Counter[Address] = Counter()
    known: set[Address] = set()
    hops: dict[Address, NextHop] = {}
    mac = bytes.fromhex("020000000001")

    def neighbors(wanted: Iterable[Neighbor]) -> list[NeighborEntry]:
        return [NeighborEntry(address, index, mac if address in known else None) for index, address in wanted]

    def confirm(wanted: Iterable[Neighbor]) -> set[Neighbor]:
        wanted = set(wanted)
        asked.update(address for _, address in wanted)
        known.update({address for _, address in wanted} - refused - silent)
        return {one for one in wanted if one[1] in refused}

    async def scenario() -> None:
        async with following(many, hops) as monitor:
            await until(
                lambda: {one for one in hops if hops[one].mac} == set(many) - refused - silent, "all that answer"
            )
            (line,) = monitor.problems()
            assert line.startswith(
                "the kernel has no room for 30 neighbors, to which nothing can be sent: raise net.ipv4"
            )
            refused.clear()
            await until(lambda: monitor.problems() == [], "there is room for them")
            asked.clear()
            await until(lambda: min(asked[one] for one in set(many) - silent) >= 10, "rounds")
            assert max(asked[one] for one in silent) < 8

    monkeypatch.setattr("agent.forwarding.route_monitor.CONFIRM_S", 0.2)
    monkeypatch.setattr(
        batch, "routes", lambda wanted: {one: KernelRoute(one, if_nametoindex("eth0")) for one in wanted}
    )
    monkeypatch.setattr(batch, "neighbors", neighbors)
    monkeypatch.setattr(batch, "confirm", confirm)
    with two_links():
        asyncio.run(scenario())


def test_a_permanent_neighbor_stays_permanent() -> None:
    """A confirmation would end it; that of the other shows that there was one."""
    permanent, stale = ip_address("10.0.0.7"), ip_address("10.0.0.8")
    hops: dict[Address, NextHop] = {}

    async def scenario() -> None:
        async with following([permanent, stale], hops):
            await until(lambda: states()[str(stale)] != {"STALE"}, "a confirmation")
            assert states()[str(permanent)] == {"PERMANENT"}
            ip("neigh", "del", str(permanent), "dev", "eth0")
            await until(lambda: str(permanent) in states(), "it is confirmed again")

    with two_links():
        for one, state in ((permanent, "permanent"), (stale, "stale")):
            ip("neigh", "add", str(one), "lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud", state)
        asyncio.run(scenario())


def test_a_failed_neighbor_is_resolved_again() -> None:
    late, late6 = ip_address("10.0.0.77"), ip_address("2001:db8::77")
    hops: dict[Address, NextHop] = {}

    async def scenario(router: int) -> None:
        async with following([late, late6], hops):
            await until(lambda: [states().get(str(one)) for one in (late, late6)] == [{"FAILED"}] * 2, "both fail")
            assert not {one for one, hop in hops.items() if hop.mac}
            ip("addr", "add", "10.0.0.77/24", "dev", "r0", inside=router)
            ip("addr", "add", "2001:db8::77/64", "dev", "r0", "nodad", inside=router)
            await until(lambda: {hop.mac for hop in hops.values()} == {bytes.fromhex("020000000001")}, "they answer")

    with two_links() as router:
        asyncio.run(scenario(router))


def test_an_interface_that_disappears_and_is_created_again() -> None:
    near, far = ip_address("10.0.1.1"), ip_address("10.5.0.9")
    hops: dict[Address, NextHop] = {}

    async def scenario(router: int) -> None:
        async with following([near, far], hops):
            await until(lambda: hops.get(near) is not None and hops[near].mac is not None, "a neighbor is resolved")
            before = hops[near]
            ip("link", "del", "eth1")
            ip("link", "add", "eth1", "type", "veth", "peer", "name", "r1", "address", "02:00:00:00:00:08")
            ip("link", "set", "r1", "netns", str(router))
            for name, address, inside in (("r1", "10.0.1.1/24", router), ("eth1", "10.0.1.11/24", None)):
                ip("addr", "add", address, "dev", name, inside=inside)
                ip("link", "set", name, "up", inside=inside)
            await until(lambda: hops[near].mac == bytes.fromhex("020000000008"), "by the new interface")
            assert hops[near].ifindex == if_nametoindex("eth1") != before.ifindex
            ip("route", "add", "10.5.0.0/16", "via", "10.0.1.1")
            await until(lambda: far in hops and hops[far].mac == hops[near].mac, "its neighbor is known already")

    with two_links() as router:
        asyncio.run(scenario(router))


def test_everything_is_looked_up_again_after_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    near, hops = ip_address("10.0.0.1"), dict[Address, NextHop]()
    for name in ("routes", "neighbors", "confirm"):
        monkeypatch.setattr(batch, name, failing_once(getattr(batch, name)))

    async def scenario() -> None:
        async with following([near], hops):
            await until(lambda: near in hops and hops[near].mac is not None, "it recovers")

    with two_links():
        asyncio.run(scenario())
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"looking up routes: [Errno {errno.ENOBUFS}] {name}" for name in ("routes", "neighbors", "confirm")
    ]


def failing_once(function: Callable[[Iterable[Any]], Any]) -> Callable[[Iterable[Any]], Any]:
    failures = [OSError(errno.ENOBUFS, function.__name__)]

    def run(wanted: Iterable[Any]) -> Any:
        if failures:
            raise failures.pop()
        return function(wanted)

    return run
