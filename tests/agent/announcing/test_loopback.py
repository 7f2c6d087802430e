# SPDX-License-Identifier: Apache-2.0
"""What VIPs need is put back as soon as a real kernel reports that it is gone."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from socket import if_nametoindex

import pytest
from support.two_links import ip, two_links

from agent.announcing import loopback
from agent.announcing.loopback import VipKeeper
from agent.errors import AgentError
from agent.netlink.batch import addresses
from agent.netlink.connection import LOOPBACK, Netlink

pytestmark = pytest.mark.lab
VIPS = [ip_address(text) for text in ("10.99.0.1", "10.99.0.2", "2001:db8:99::1")]
BACK_S = 60.0
"""Less than KEEP_S: what is back by then was put back because of an event. It takes 30 ms on a machine at rest."""
CONF = Path("/proc/sys/net/ipv4/conf")

Scenario = Callable[[VipKeeper, list[bool]], Awaitable[None]]


def on_lo() -> set[object]:
    return {address for index, address in addresses() if index == LOOPBACK} & set(VIPS)


async def back(what: Callable[[], object], within_s: float = BACK_S) -> None:
    deadline = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline, "not put back"
        await asyncio.sleep(0.01)


def keep(scenario: Scenario, ends: bool = False) -> None:
    """Run a scenario beside a keeper of the VIPs; what it reports: whether there was a fault. `ends`: it ends then."""

    async def running() -> None:
        netlink, reports = Netlink(), []
        keeper = VipKeeper(netlink, VIPS, ["eth0"])
        indexes = {"eth0": if_nametoindex("eth0")}
        task = asyncio.create_task(keeper.run(indexes, lambda: reports.append(keeper.fault is not None)))
        try:
            await back(lambda: task.done() or on_lo() == set(VIPS), 60)
            await scenario(keeper, reports)
            if ends:
                await back(task.done)
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            netlink.close()

    with two_links():
        asyncio.run(running())


@pytest.fixture(autouse=True)
def no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback, "KEEP_S", 3600.0)


def test_removed_vips_are_put_back(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(keeper: VipKeeper, reports: list[bool]) -> None:
        for vip in VIPS:
            ip("addr", "del", f"{vip}/{vip.max_prefixlen}", "dev", "lo")
            await back(lambda: on_lo() == set(VIPS))
        ip("link", "set", "lo", "down")  # takes the IPv6 addresses along
        await back(lambda: on_lo() == set(VIPS) and "lo is up" in caplog.text)
        assert not reports
        assert "something changed what VIPs need; again: 10.99.0.1 is on lo" in caplog.text

    with caplog.at_level(logging.WARNING, "anylb"):
        keep(scenario)


@pytest.mark.parametrize("name", ["all", "eth0"])
def test_changed_settings_are_set_again(name: str) -> None:
    """More often than events of other kinds come, such as those of IPv6's duplicate address detection."""

    async def scenario(keeper: VipKeeper, reports: list[bool]) -> None:
        for key, value in [("arp_ignore", "1"), ("arp_announce", "2")] * 5:
            path = CONF / name / key
            assert path.read_text().strip() == value
            path.write_text("0")
            await back(lambda path=path, value=value: path.read_text().strip() == value)

    keep(scenario)


def test_keeper_at_rest_causes_no_events(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Each repair is an event. One that touched what is as it must be would call for the next."""
    passes: list[float] = []
    put_vips = loopback.put_vips

    async def counted(*arguments: object) -> list[str]:
        passes.append(time.monotonic())
        return await put_vips(*arguments)  # type: ignore[arg-type]

    async def scenario(keeper: VipKeeper, reports: list[bool]) -> None:
        count = 0
        while count != len(passes):  # the events of its own repair
            count = len(passes)
            assert count <= 20
            await asyncio.sleep(1)

    monkeypatch.setattr(loopback, "put_vips", counted)
    keep(scenario)


def test_what_cannot_be_put_back_is_a_problem_until_it_can() -> None:
    async def scenario(keeper: VipKeeper, reports: list[bool]) -> None:
        off = Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
        off.write_text("1")
        await back(lambda: keeper.fault)
        assert keeper.fault
        assert keeper.fault.startswith("what VIPs need cannot be put back: VIPs cannot be put on lo: ")
        assert "is IPv6 off here?: remove what changes" in keeper.fault
        off.write_text("0")
        ip("link", "set", "eth1", "mtu", "1400")  # any event
        await back(lambda: keeper.fault is None)
        assert on_lo() == set(VIPS)
        await back(lambda: reports == [True, False])

    keep(scenario)


def test_interface_that_is_created_again_ends_the_agent() -> None:
    async def scenario(keeper: VipKeeper, reports: list[bool]) -> None:
        ip("link", "del", "eth0")
        ip("link", "add", "eth0", "type", "veth", "peer", "name", "other")

    with pytest.raises(AgentError, match="eth0 was created again; restart the agent to use it"):
        keep(scenario, ends=True)
