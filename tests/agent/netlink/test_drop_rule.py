# SPDX-License-Identifier: Apache-2.0
"""What arrives for NAT's pools and VIPs is dropped by a real kernel that forwards; what this node sends is not."""

import asyncio
import socket
import subprocess
from ipaddress import ip_network
from pathlib import Path

import pytest
from support.two_links import ip, two_links

from agent.announcing.loopback import VipKeeper
from agent.netlink.connection import Netlink
from agent.netlink.drop_rule import DropRule, set_rules

pytestmark = pytest.mark.lab
POOL, POOL6, VIP = ip_network("10.255.0.0/27"), ip_network("fd00:ff::/123"), ip_network("10.99.0.1/32")


def rules(version: int = 4) -> list[str]:
    shown = subprocess.run(["ip", f"-{version}", "rule"], capture_output=True, text=True, check=True).stdout
    return [line.partition(":")[2].strip() for line in shown.splitlines() if "blackhole" in line]


def test_rules_follow_what_is_wanted_and_leave_those_of_others() -> None:
    with two_links():
        ip(*["rule", "add", "iif", "eth0", "to", "192.0.2.0/24", "blackhole"])
        changed = asyncio.run(set_rules([DropRule("eth0", one) for one in (POOL, POOL6)]))
        assert changed == ["10.255.0.0/27 from eth0 is dropped", "fd00:ff::/123 from eth0 is dropped"]
        assert rules() == [
            "from all to 10.255.0.0/27 iif eth0 blackhole proto 171",
            "from all to 192.0.2.0/24 iif eth0 blackhole",
        ]
        assert rules(6) == ["from all to fd00:ff::/123 iif eth0 blackhole proto 171"]
        assert asyncio.run(set_rules([DropRule("eth0", one) for one in (POOL, POOL6)])) == []
        assert asyncio.run(set_rules([DropRule("eth0", VIP)])) == [
            "10.255.0.0/27 from eth0 is dropped no more",
            "10.99.0.1/32 from eth0 is dropped",
            "fd00:ff::/123 from eth0 is dropped no more",
        ]
        asyncio.run(set_rules(()))
        assert rules() == ["from all to 192.0.2.0/24 iif eth0 blackhole"]


def test_keeper_of_vips_puts_rules_and_removes_those_of_an_earlier_agent() -> None:
    async def put(*dropped: object) -> None:
        netlink = Netlink()
        keeper = VipKeeper(netlink, [], ["eth0"], dropped=dropped)  # type: ignore[arg-type]
        await keeper.put()
        netlink.close()

    with two_links():
        asyncio.run(put(POOL))
        assert rules() == ["from all to 10.255.0.0/27 iif eth0 blackhole proto 171"]
        asyncio.run(put())
        assert rules() == []


def test_only_what_arrives_is_dropped() -> None:
    def arrives() -> bool:
        lookup = ["ip", "route", "get", "10.255.0.1", "from", "10.0.0.1", "iif", "eth0"]
        return not subprocess.run(lookup, capture_output=True, check=False).returncode

    with two_links():
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        ip(*["route", "add", "10.255.0.0/27", "via", "10.0.0.1"])
        assert arrives(), "and is sent back to the router"
        asyncio.run(set_rules([DropRule("eth0", POOL)]))
        assert not arrives()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.connect(("10.255.0.1", 40000))
