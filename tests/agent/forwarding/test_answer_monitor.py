# SPDX-License-Identifier: Apache-2.0
"""Faults of the path of answers as a real kernel reports them, and the settings that prevent one."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from socket import if_nametoindex

import pytest
from support.two_links import ip, two_links

from agent.config.file import parse
from agent.forwarding import answer_monitor
from agent.forwarding.answer_monitor import AnswerMonitor
from agent.netlink import batch
from agent.netlink.connection import Netlink
from agent.netlink.vip import put_vips

pytestmark = pytest.mark.lab
OWN, VIP, VIP6 = ip_address("10.0.0.11"), ip_address("192.0.2.10"), ip_address("2001:db8:99::1")
NOTICED_S = 60.0
"""It takes 5 s at most on a machine at rest."""
CONFIG = """\
cluster: 7
node: {interface: eth0NODE}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443}
  - {name: web6, vip: "2001:db8:99::1", protocol: tcp, port: 443}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
"""
CONF = Path("/proc/sys/net/ipv4/conf")

Scenario = Callable[[AnswerMonitor, int], Awaitable[None]]
"""The second is the pid of a process in the router."""


async def until(what: Callable[[], object], within_s: float = NOTICED_S) -> None:
    deadline = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline, "not noticed"
        await asyncio.sleep(0.01)


def watch(scenario: Scenario, node: str = "", route: str = "default via 10.0.0.1") -> None:
    """Run a scenario beside a monitor where there are two links. `node`: more of `node:`; `route`: one more route."""
    config = parse(CONFIG.replace("NODE", node), "lb.yml")

    async def running(router: int) -> None:
        netlink = Netlink()
        await put_vips(netlink, [VIP, VIP6], ["eth0"], config.node.rp_filter == "loose")
        monitor = AnswerMonitor(config, OWN, netlink, lambda: None)
        task = asyncio.create_task(monitor.run())
        try:
            await monitor.start()
            await scenario(monitor, router)
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            netlink.close()

    with two_links() as router:
        for name in ("all", "eth0"):
            (CONF / name / "rp_filter").write_text("0")
        ip("route", "add", "default", "via", "2001:db8::1")
        if route:
            ip("route", "add", *route.split())
        asyncio.run(running(router))


def cause(monitor: AnswerMonitor) -> str:
    return " ".join(fault.cause for fault in monitor.faults)


@pytest.fixture
def by_events_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_monitor, "READ_S", 3600.0)


@pytest.mark.usefixtures("by_events_alone")
def test_route_that_is_lost_with_a_link_flap_is_noticed_until_it_is_back() -> None:
    async def scenario(monitor: AnswerMonitor, _: int) -> None:
        assert not monitor.faults
        ip("link", "set", "eth0", "down")
        ip("link", "set", "eth0", "up")
        await until(lambda: "there is no route to clients in 0.0.0.0/0" in cause(monitor))
        ip("route", "add", "default", "via", "10.0.0.1")
        ip("addr", "replace", "2001:db8::11/64", "dev", "eth0", "nodad")  # the flap has taken it along
        ip("route", "replace", "default", "via", "2001:db8::1")
        await until(lambda: not monitor.faults)

    watch(scenario)


def test_route_that_is_missing_at_the_start_counts_at_once() -> None:
    async def scenario(monitor: AnswerMonitor, _: int) -> None:
        assert cause(monitor) == "there is no route to clients in 0.0.0.0/0"

    watch(scenario, route="")


def test_no_route_is_needed_to_where_no_clients_are() -> None:
    async def scenario(monitor: AnswerMonitor, _: int) -> None:
        assert not monitor.faults
        ip("route", "del", "10.5.0.0/16")
        await until(lambda: cause(monitor) == "there is no route to clients in 10.5.0.0/16")

    watch(scenario, ", clients: [10.0.1.0/24, 10.5.0.0/16, '::/0']", "10.5.0.0/16 via 10.0.1.1")


@pytest.mark.usefixtures("by_events_alone")
def test_next_hop_that_does_not_answer_is_noticed() -> None:
    async def scenario(monitor: AnswerMonitor, _: int) -> None:
        ip("route", "replace", "default", "via", "10.0.0.99")
        await until(
            lambda: cause(monitor) == "10.0.0.99 on eth0, the next hop to clients in 0.0.0.0/0, does not answer"
        )
        ip("neigh", "replace", "10.0.0.99", "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "permanent")
        await until(lambda: not monitor.faults)

    watch(scenario)


@pytest.mark.usefixtures("by_events_alone")
def test_next_hop_that_has_answered_and_falls_silent_is_noticed() -> None:
    async def scenario(monitor: AnswerMonitor, router: int) -> None:
        gateway = (if_nametoindex("eth0"), ip_address("10.0.0.1"))
        await until(lambda: any(one.mac for one in batch.neighbors([gateway])))
        ip("addr", "del", "10.0.0.1/24", "dev", "r0", inside=router)
        # Left alone, the kernel would confirm it after 15 s at the earliest.
        silent = "10.0.0.1 on eth0, the next hop to clients in 0.0.0.0/0, does not answer"
        await until(lambda: cause(monitor) == silent, within_s=14)
        ip("addr", "add", "10.0.0.1/24", "dev", "r0", inside=router)
        await until(lambda: not monitor.faults)

    watch(scenario)


@pytest.mark.usefixtures("by_events_alone")
def test_strict_filter_is_noticed_where_it_is_refused() -> None:
    async def scenario(monitor: AnswerMonitor, _: int) -> None:
        (CONF / "eth0/rp_filter").write_text("1")
        ip("route", "replace", "default", "via", "10.0.1.1")
        expected = "rp_filter is 1 on eth0, but answers to clients in 0.0.0.0/0 leave by eth1"
        await until(lambda: cause(monitor) == expected)
        (CONF / "eth0/rp_filter").write_text("2")
        await until(lambda: not monitor.faults)

    watch(scenario, ", rp_filter: refuse")


@pytest.mark.parametrize("name", ["all", "eth0"])
def test_strict_filter_is_made_loose(name: str) -> None:
    async def scenario(monitor: AnswerMonitor, _: int) -> None:
        (CONF / name / "rp_filter").write_text("1")
        netlink = Netlink()
        changed = await put_vips(netlink, [VIP], ["eth0"])
        netlink.close()
        assert changed == ["net.ipv4.conf.eth0.rp_filter = 2"], "which is the higher of both values"
        assert (CONF / "eth1/rp_filter").read_text() != "2\n", "another interface's"

    watch(scenario)


@pytest.mark.usefixtures("by_events_alone")
def test_ipv6_has_a_path_of_its_own() -> None:
    async def scenario(monitor: AnswerMonitor, _: int) -> None:
        assert not monitor.faults
        ip("-6", "route", "del", "default")
        await until(lambda: cause(monitor) == "there is no route to clients in ::/0")
        assert [fault.vips for fault in monitor.faults] == [(VIP6,)]
        ip("-6", "route", "add", "default", "via", "2001:db8::99")
        await until(lambda: cause(monitor).startswith("2001:db8::99 on eth0, the next hop to clients in ::/0, does"))
        ip("-6", "route", "replace", "default", "via", "2001:db8::1")
        await until(lambda: not monitor.faults)

    watch(scenario)


@pytest.mark.usefixtures("by_events_alone")
def test_address_that_changes_is_named() -> None:
    async def scenario(monitor: AnswerMonitor, _: int) -> None:
        ip("addr", "del", "10.0.0.11/24", "dev", "eth0")
        ip("addr", "add", "10.0.0.77/24", "dev", "eth0")
        await until(lambda: "this node's address 10.0.0.11 is gone (eth0 has 10.0.0.77" in cause(monitor))
        ip("addr", "add", "10.0.0.11/24", "dev", "eth0")
        ip("route", "replace", "default", "via", "10.0.0.1")
        await until(lambda: not monitor.faults)

    watch(scenario)
