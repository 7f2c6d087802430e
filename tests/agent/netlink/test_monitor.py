# SPDX-License-Identifier: Apache-2.0
"""The events of a real kernel."""

import asyncio
import logging
import socket
import subprocess
import time
from collections import Counter
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from support.two_links import ip, two_links

from agent.address import Address
from agent.netlink.monitor import Group, NetlinkEvent, NetlinkMonitor
from agent.netlink.neighbor import NeighborEntry

pytestmark = pytest.mark.lab

GROUPS = Group.LINKS | Group.NEIGHBORS | Group.ROUTES
MAC, MAC_TEXT = bytes.fromhex("020000000055"), "02:00:00:00:00:55"


async def until_received(events: list[NetlinkEvent], wanted: list[NetlinkEvent]) -> None:
    """Wait until these events have arrived, each as often as it is there; the kernel sends others too."""
    deadline = time.monotonic() + 60
    while Counter(wanted) - Counter(events):
        assert time.monotonic() < deadline, events
        await asyncio.sleep(0.01)


def remove_neighbor(address: Address) -> None:
    """Remove an entry. One that is in use at that moment fails only, and stays for a minute: until there is none."""
    while (
        subprocess.run(["ip", "neigh", "del", str(address), "dev", "eth0"], check=False, capture_output=True).returncode
        == 0
    ):
        time.sleep(0.05)


def test_events() -> None:
    events: list[NetlinkEvent] = []
    here, here6 = ip_address("10.0.0.5"), ip_address("2001:db8::5")

    async def scenario() -> None:
        index = socket.if_nametoindex("eth0")
        with NetlinkMonitor(events.append, GROUPS) as monitor:
            monitor.listen()
            for one in (here, here6):
                ip("neigh", "add", str(one), "lladdr", MAC_TEXT, "dev", "eth0", "nud", "permanent")
            remove_neighbor(here)
            ip("route", "add", "10.5.0.0/16", "via", "10.0.0.1")
            ip("route", "del", "10.5.0.0/16")
            ip("route", "add", "default", "via", "2001:db8::1")
            found = [NeighborEntry(one, index, MAC, maintained=True) for one in (here, here6)]
            routes = [ip_network("10.5.0.0/16"), ip_network("10.5.0.0/16"), ip_network("::/0")]
            wanted = [NetlinkEvent(neighbor=one) for one in found]
            wanted += [NetlinkEvent(neighbor=NeighborEntry(here, index, None, failed=True))] * 2  # then it is removed
            await until_received(events, wanted + [NetlinkEvent(destination=one) for one in routes])
            events.clear()
            ip("link", "set", "eth1", "mtu", "1400")
            await until_received(events, [NetlinkEvent()])

    with two_links():
        asyncio.run(scenario())


@pytest.mark.parametrize(
    ("group", "command"),
    [
        (Group.LINKS, "ip link set eth1 mtu 1400"),
        (Group.ADDRESSES, "ip addr add 10.0.1.99/32 dev lo"),
        (Group.ADDRESSES, "ip addr add 2001:db8::99/128 dev lo"),
        (Group.RULES, "ip rule add from 10.0.1.11 table 77"),
        (Group.RULES, "ip -6 rule add from 2001:db8::11 table 77"),
        (Group.SETTINGS, "sysctl -w net.ipv4.conf.eth1.rp_filter=2"),
        (Group.SETTINGS, "sysctl -w net.ipv6.conf.eth1.forwarding=1"),
    ],
)
def test_event_of_each_group_means_that_anything_may_have_changed(group: Group, command: str) -> None:
    events: list[NetlinkEvent] = []

    async def scenario() -> None:
        with NetlinkMonitor(events.append, group) as monitor:
            monitor.listen()
            subprocess.run(command.split(), check=True, capture_output=True)
            await until_received(events, [NetlinkEvent()])

    with two_links():
        for name in ("all", "eth1"):
            Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")
        asyncio.run(scenario())


def test_lost_events_have_everything_looked_up_again(caplog: pytest.LogCaptureFixture) -> None:
    events: list[NetlinkEvent] = []

    async def scenario() -> None:
        with NetlinkMonitor(events.append, GROUPS) as monitor:
            monitor._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            monitor.listen()
            lines = [f"route add 10.5.{n}.0/24 via 10.0.0.1" for n in range(200)]
            subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
            await until_received(events, [NetlinkEvent()])
            assert "No buffer space available; looking everything up again" in caplog.text
            events.clear()
            ip("route", "add", "10.6.0.0/16", "via", "10.0.0.1")
            await until_received(events, [NetlinkEvent(destination=ip_network("10.6.0.0/16"))])

    with two_links(), caplog.at_level(logging.WARNING, "anylb"):
        asyncio.run(scenario())
