# SPDX-License-Identifier: Apache-2.0
"""What the agent reads of a real kernel's interfaces."""

import asyncio

import pytest
from support.two_links import ip, two_links

from agent.address import Address
from agent.errors import AgentError
from agent.netlink.connection import Netlink

pytestmark = pytest.mark.lab


async def addresses(name: str) -> list[Address]:
    netlink = Netlink()
    try:
        return await netlink.addresses(await netlink.link(name))
    finally:
        netlink.close()


def test_an_address_may_be_on_the_device_above_the_interface() -> None:
    """As with a bond; a bridge takes its place here, since the kernel reports both alike."""
    with two_links():
        ip("link", "add", "br0", "type", "bridge")
        ip("link", "set", "eth1", "master", "br0")
        ip("addr", "flush", "dev", "eth1")
        assert [str(one) for one in asyncio.run(addresses("eth1")) if one.version == 4] == []
        ip("addr", "add", "10.0.1.12/24", "dev", "br0")
        assert [str(one) for one in asyncio.run(addresses("eth1")) if one.version == 4] == ["10.0.1.12"]


def test_an_interface_that_does_not_exist() -> None:
    with two_links(), pytest.raises(AgentError, match="there is no interface eth9 here"):
        asyncio.run(addresses("eth9"))


def test_many_may_read_at_once() -> None:
    """The parts of the agent share one socket, on which the kernel makes one dump at a time."""

    async def read() -> list[int]:
        netlink = Netlink()
        try:
            link = await netlink.link("eth1")
            reads = [read() for _ in range(8) for read in (netlink.links, lambda: netlink.addresses(link))]
            return [len(one) for one in await asyncio.gather(*reads)]
        finally:
            netlink.close()

    with two_links():
        for number in range(60):  # more than fit into one part of a dump
            ip("link", "add", f"br{number}", "type", "bridge")
        found = asyncio.run(read())
    assert min(found[::2]) > 60
    assert len(set(found)) == 2
