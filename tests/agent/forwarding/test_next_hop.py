# SPDX-License-Identifier: Apache-2.0
"""The next hop of a node as a table of what the kernel may say, and following a real kernel as it changes its mind."""

import asyncio
import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from agent.address import Address
from agent.errors import AgentError
from agent.forwarding.next_hop import KernelRoute, Link, NextHop, next_hop, unresolved
from agent.forwarding.route_monitor import RouteMonitor
from agent.netlink.netlink import Netlink
from topology.lab.netns import CLONE_NEWNET, setns, unshare

NODE, ROUTER, NODE6 = IPv4Address("10.0.0.12"), IPv4Address("10.0.0.1"), ip_address("2001:db8::12")
HERE, THERE, THAT = (bytes.fromhex(f"0200000000{i:02x}") for i in (1, 2, 3))
ETH0, ETH1 = Link(2, "eth0", HERE, 1500), Link(3, "eth1", THERE, 9000)
VLAN = Link(4, "eth0.7", HERE, 1496, lower=2, vlan=7)
BOND = Link(5, "bond0", HERE, 1500)
SLAVES = replace(ETH0, master=5), replace(ETH1, master=5, mac=HERE)
OLD = NextHop(THERE, on_link=False, ifindex=3, source=THERE, mtu=1400)


def links(*some: Link) -> dict[int, Link]:
    return {link.index: link for link in some}


BOTH = links(ETH0, ETH1, VLAN, BOND)


@pytest.mark.parametrize(
    ("what", "way", "macs", "uplinks", "before", "expected"),
    [
        ("on the link", KernelRoute(NODE, 2), {(2, NODE): THAT}, {2}, None, NextHop(THAT)),
        ("behind a router", KernelRoute(NODE, 2, ROUTER), {(2, ROUTER): THAT}, {2}, None, NextHop(THAT, on_link=False)),
        ("not the node's own MAC, which is for the link", KernelRoute(NODE, 2, ROUTER), {(2, NODE): THAT}, {2}, None,
         NextHop(None, on_link=False)),
        ("a MAC on another interface is another's", KernelRoute(NODE, 3), {(2, NODE): THAT}, {2, 3}, None,
         NextHop(None, True, 3, THERE, 0, 9000)),
        ("the route's MTU before the link's", KernelRoute(NODE, 2, mtu=1400), {(2, NODE): THAT}, {2}, None,
         NextHop(THAT, mtu=1400)),
        ("two uplinks: the one of the route", KernelRoute(NODE, 3), {(3, NODE): THAT}, {2, 3}, None,
         NextHop(THAT, True, 3, THERE, 0, 9000)),
        ("out of an interface without the program", KernelRoute(NODE, 3), {(3, NODE): THAT}, {2}, None,
         NextHop(THAT, True, 3, THERE, 0, 9000)),
        ("IPv6", KernelRoute(NODE6, 2), {(2, NODE6): THAT}, {2}, None, NextHop(THAT)),
        ("an IPv4 node over an IPv6 router", KernelRoute(NODE, 2, NODE6), {(2, NODE6): THAT}, {2}, None,
         NextHop(THAT, on_link=False)),
        ("a VLAN: the lower interface, with the tag", KernelRoute(NODE, 4), {(4, NODE): THAT}, {2}, None,
         NextHop(THAT, vlan=7, mtu=1496)),
        ("a VLAN of one uplink of two", KernelRoute(NODE, 4), {(4, NODE): THAT}, {2, 3}, None,
         NextHop(THAT, True, 2, HERE, 7, 1496)),
        ("a VLAN device with the program on itself", KernelRoute(NODE, 4), {(4, NODE): THAT}, {4}, None,
         NextHop(THAT, mtu=1496)),
        ("a bond with the program on itself", KernelRoute(NODE, 5), {(5, NODE): THAT}, {5}, None, NextHop(THAT)),
        ("a new router that has not answered: the old way", KernelRoute(NODE, 2, ROUTER), {}, {2}, OLD, OLD),
        ("a new router that has", KernelRoute(NODE, 2, ROUTER), {(2, ROUTER): THAT}, {2}, OLD, NextHop(THAT, on_link=False)),
        ("no route: the old way", None, {(2, NODE): THAT}, {2}, OLD, OLD),
        ("no route ever", None, {(2, NODE): THAT}, {2}, None, None),
        ("an interface that is gone", KernelRoute(NODE, 9), {(9, NODE): THAT}, {2}, OLD, OLD),
        ("never answered", KernelRoute(NODE, 2), {}, {2}, None, NextHop(None)),
        ("never answered, and another router now", KernelRoute(NODE, 2, ROUTER), {}, {2}, NextHop(None),
         NextHop(None, on_link=False)),
    ],
)  # fmt: skip
def test_next_hop(
    what: str, way: KernelRoute | None, macs: Mapping[tuple[int, Address], bytes], uplinks: set[int],
    before: NextHop | None, expected: NextHop | None,
) -> None:  # fmt: skip
    assert next_hop(way, BOTH, macs, frozenset(uplinks), before) == expected, what


def test_a_bonds_slaves() -> None:
    way, macs = KernelRoute(NODE, 5), {(5, NODE): THAT}
    assert next_hop(way, links(*SLAVES, BOND), macs, frozenset({2, 3}), None) == NextHop(THAT), "back as it came"
    third = Link(6, "eth2", THAT, 1500)
    some = links(*SLAVES, BOND, third)
    assert next_hop(way, some, macs, frozenset({2, 3, 6}), None) == NextHop(THAT, True, 2, HERE)
    some[2] = replace(some[2], up=False)
    assert next_hop(way, some, macs, frozenset({2, 3, 6}), None) == NextHop(THAT, True, 3, HERE)


def test_who_is_asked_for() -> None:
    ways = [KernelRoute(NODE, 2), KernelRoute(NODE6, 2, ROUTER), KernelRoute(NODE6, 3)]
    assert unresolved(ways, {(2, NODE): THAT}) == {(2, ROUTER), (3, NODE6)}


#          eth0 10.0.0.11 ──── r0 10.0.0.1  MAC 02::01 ┐
#   here                                                ├ router ── 10.5.0.9 (a node behind it)
#          eth1 10.0.1.11 ──── r1 10.0.1.1  MAC 02::02 ┘
#          and 2001:db8::11 / ::1 on the first


def ip(*words: str, inside: int | None = None) -> None:
    enter = ["nsenter", "-t", str(inside), "-n"] if inside else []
    subprocess.run([*enter, "ip", *words], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def two_links() -> Iterator[int]:
    """This thread in a network namespace with two links to a router, whose pid it yields."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    unshare(CLONE_NEWNET)
    router = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; read -r _"], stdin=-1, stdout=-1)
    assert router.stdin
    assert router.stdout
    try:
        router.stdout.readline()  # it is in its own namespace
        for i in (0, 1):
            ip("link", "add", f"eth{i}", "type", "veth", "peer", "name", f"r{i}", "address", f"02:00:00:00:00:0{i + 1}")
            ip("link", "set", f"r{i}", "netns", str(router.pid))
            ip("link", "set", f"r{i}", "up", inside=router.pid)
            ip("addr", "add", f"10.0.{i}.1/24", "dev", f"r{i}", inside=router.pid)
            ip("link", "set", f"eth{i}", "up")
            ip("addr", "add", f"10.0.{i}.11/24", "dev", f"eth{i}")
        ip("addr", "add", "2001:db8::1/64", "dev", "r0", "nodad", inside=router.pid)
        ip("addr", "add", "2001:db8::11/64", "dev", "eth0", "nodad")
        yield router.pid
    finally:
        router.stdin.close()
        router.wait(10)
        router.stdout.close()
        setns(before, CLONE_NEWNET)
        os.close(before)


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


@pytest.mark.lab
def test_the_entry_follows_the_kernel() -> None:
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

        await until(lambda: hops.get(near) == hop(0, on_link=True), "a neighbor is asked for")
        await until(lambda: hops.get(near6) == hop(0, on_link=True), "in IPv6 too")
        assert far not in hops, "there is no route to it"
        ip("route", "add", "10.5.0.0/16", "via", "10.0.0.1")
        await until(lambda: hops.get(far) == hop(0), "a route comes")
        ip("route", "replace", "10.5.0.0/16", "via", "10.0.1.1", "mtu", "1400")
        await until(lambda: hops[far] == hop(1, mtu=1400), "another uplink, and the route's MTU")
        ip("link", "set", "r1", "address", "02:00:00:00:00:09", inside=router)
        ip("neigh", "flush", "dev", "eth1")
        changed = replace(hop(1, mtu=1400), mac=bytes.fromhex("020000000009"))
        await until(lambda: hops[far] == changed, "the router was replaced")
        ip("link", "set", "r0", "down", inside=router)
        ip("route", "del", "10.5.0.0/16")
        ip("route", "add", "10.6.0.0/16", "via", "10.0.1.1")  # another's route wakes nobody
        await asyncio.sleep(0)
        assert hops[far] == changed, "without a route the old way stands"
        ip("link", "set", "r0", "up", inside=router)
        ip("route", "add", "10.5.0.0/16", "via", "10.0.0.1")
        await until(lambda: hops[far] == hop(0), "and back")
        ip("link", "set", "eth0", "address", "02:00:00:00:00:77")
        await until(lambda: macs == {index["eth0"]: bytes.fromhex("020000000077")}, "the uplink has another MAC")
        await until(lambda: hops[far].source == bytes.fromhex("020000000077"), "which is the source from now on")
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        netlink.close()

    assert not os.geteuid(), "needs root"
    assert Path("/proc/thread-self/ns/net").exists()
    with two_links() as router:
        asyncio.run(scenario(router))


@pytest.mark.lab
def test_the_address_may_stand_on_what_is_above_the_interface() -> None:
    """As with a bond; a bridge is its stand-in, which the kernel tells of alike."""

    async def look() -> tuple[str, int]:
        netlink = Netlink()
        try:
            found = await netlink.interface("eth1", None)
            return str(found.address), found.index
        finally:
            netlink.close()

    with two_links():
        ip("link", "add", "br0", "type", "bridge")
        ip("link", "set", "eth1", "master", "br0")
        ip("addr", "flush", "dev", "eth1")
        with pytest.raises(AgentError, match="eth1 has no IPv4 address"):
            asyncio.run(look())
        ip("addr", "add", "10.0.1.12/24", "dev", "br0")
        assert asyncio.run(look()) == ("10.0.1.12", socket.if_nametoindex("eth1"))
