# SPDX-License-Identifier: Apache-2.0
"""One rtnetlink socket, over which the agent asks the kernel for links and addresses, and changes them. I/O only.

pyroute2 does it: there are few links. Neighbors and routes, of which a large cluster has many, are batch.py's; the
kernel's events have a socket of their own (monitor.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Final

from pyroute2 import AsyncIPRoute

from agent.address import Address, Network
from agent.errors import AgentError
from agent.netlink.link import Link, link_from

LOOPBACK: Final = 1
"""The index of lo."""


class Netlink:
    """One rtnetlink socket. Methods raise NetlinkError for what the kernel refuses, unless they document otherwise."""

    def __init__(self) -> None:
        self._socket = AsyncIPRoute()
        self._dumping = asyncio.Lock()
        """The kernel refuses a dump (EBUSY) while the socket has another one that is not read to its end."""

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def links(self) -> dict[int, Link]:
        """Return every interface, by index."""
        async with self._dumping:
            return {link["index"]: link_from(link) async for link in await self._socket.link("dump")}

    async def link(self, name: str) -> Link:
        """Return the interface of that name. Raises AgentError if there is none."""
        for link in (await self.links()).values():
            if link.name == name:
                return link
        raise AgentError(f"there is no interface {name} here; see `ip link`")

    async def addresses(self, link: Link) -> list[Address]:
        """Return an interface's addresses, its own first, then those of its bond and of the VLAN devices on it."""
        links = await self.links()
        above = {other.index for other in links.values() if other.vlan and other.lower == link.index}
        above |= {link.index, link.master}
        dump = [entry for entry in await self._addresses() if entry["index"] in above]
        dump.sort(key=lambda entry: entry["index"] != link.index)
        return [ip_address(entry.get("local") or entry.get("address")) for entry in dump]

    async def subnets(self, names: Iterable[str]) -> list[tuple[str, Network]]:
        """Return the subnets of interfaces, each with its interface's name. Link-local ones, which all have, are left
        out."""
        wanted = {index: link.name for index, link in (await self.links()).items() if link.name in names}
        dump = [entry for entry in await self._addresses() if entry["index"] in wanted]
        found = [
            (wanted[one["index"]], ip_network((one.get("local") or one.get("address"), one["prefixlen"]), strict=False))
            for one in dump
        ]
        return [(name, subnet) for name, subnet in found if not subnet.is_link_local]

    async def link_local(self, name: str) -> IPv6Address | None:
        """Return an interface's own link-local IPv6 address. Raises AgentError if there is no such interface."""
        link = await self.link(name)
        found = [ip_address(entry.get("address")) for entry in await self._addresses(index=link.index)]
        return next((one for one in found if isinstance(one, IPv6Address) and one.is_link_local), None)

    async def _addresses(self, **of: int) -> list[Any]:
        """Return the messages about the addresses of all interfaces, or of the one with that index."""
        async with self._dumping:
            return [entry async for entry in await self._socket.addr("dump", **of)]

    async def raise_loopback(self) -> None:
        """Set lo up."""
        await self._socket.link("set", index=LOOPBACK, state="up")

    async def add_loopback_address(self, address: Address) -> None:
        """Put a host address on lo; it is no error if it is there."""
        await self._socket.addr("replace", index=LOOPBACK, address=str(address), prefixlen=address.max_prefixlen)

    async def remove_loopback_address(self, address: Address) -> None:
        """Remove a host address from lo."""
        await self._socket.addr("del", index=LOOPBACK, address=str(address), prefixlen=address.max_prefixlen)
