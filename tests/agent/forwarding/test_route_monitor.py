# SPDX-License-Identifier: Apache-2.0
"""The next hops of addresses follow a real kernel's routes, links and neighbors."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest
from support.two_links import ip, two_links

from agent.address import Address
from agent.forwarding.next_hop import NextHop
from agent.forwarding.route_monitor import RouteMonitor
from agent.netlink.connection import Netlink


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


@pytest.mark.lab
def test_next_hops_follow_the_kernel() -> None:
    far, near, near6 = IPv4Address("10.5.0.9"), IPv4Address("10.0.0.1"), ip_address("2001:db8::1")
    hops: dict[Address, NextHop] = {}
    macs: dict[int, bytes] = {}

    async def scenario(router: int) -> None:
        netlink = Netlink()
        index = {link.name: link.index for link in (await netlink.links()).values()}
        own = {link.index: link.mac for link in (await netlink.links()).values()}
        routes = RouteMonitor(netlink, [index["eth0"], index["eth1"]], hops.__setitem__, macs.__setitem__)
        routes.follow({far, near, near6}, lambda _: None)
        following = asyncio.create_task(routes.run())

        def hop(number: int, on_link: bool = False, mtu: int = 1500) -> NextHop:
            out = index[f"eth{number}"]
            return NextHop(bytes.fromhex(f"02000000000{number + 1}"), on_link, out, own[out], 0, mtu)

        await until(lambda: hops.get(near) == hop(0, on_link=True), "a neighbor is resolved")
        await until(lambda: hops.get(near6) == hop(0, on_link=True), "in IPv6 too")
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
