# SPDX-License-Identifier: Apache-2.0
"""One rtnetlink socket, over which the agent asks the kernel for its network state and changes it. I/O only.

The answers become values in link.py, route.py and neighbor.py. The kernel's events have a socket of their own
(monitor.py).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import Final

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from agent.address import Address
from agent.errors import AgentError
from agent.netlink.link import Link, link_from
from agent.netlink.neighbor import NeighborEntry, neighbor_from
from agent.netlink.route import KernelRoute, egress_of, route_from

_LOOPBACK: Final = 1
_NO_ROUTE: Final = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES)
"""The kernel's answers for no route, and for unreachable, blackhole and prohibit routes."""
_GONE: Final = (errno.ENODEV, errno.ENETDOWN, errno.EINVAL, errno.EAFNOSUPPORT)
"""The interface disappeared or went down after its index was read."""
_WORLD: Final[dict[int, str]] = {4: "203.0.113.1", 6: "3fff::1"}
"""Documentation addresses (RFC 5737, RFC 9637), by IP version: only the default route leads to them."""
_FIB_MATCH: Final = 0x2000
"""RTM_F_FIB_MATCH (linux/rtnetlink.h): answer with the route itself, all its next hops, not with the one chosen."""
_NTF_USE: Final = 1
"""ndmsg flag (linux/neighbor.h): resolve the neighbor as if a packet had been sent to it."""


class Netlink:
    """One rtnetlink socket. Methods raise NetlinkError for what the kernel refuses, unless they document otherwise."""

    def __init__(self) -> None:
        self._socket = AsyncIPRoute()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def links(self) -> dict[int, Link]:
        """Return every interface, by index."""
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
        dump = [entry async for entry in await self._socket.addr("dump") if entry["index"] in above]
        dump.sort(key=lambda entry: entry["index"] != link.index)
        return [ip_address(entry.get("local") or entry.get("address")) for entry in dump]

    async def link_local(self, name: str) -> IPv6Address | None:
        """Return an interface's own link-local IPv6 address. Raises AgentError if there is no such interface."""
        link = await self.link(name)
        dump = [entry async for entry in await self._socket.addr("dump", index=link.index)]
        found = [ip_address(entry.get("address")) for entry in dump]
        return next((one for one in found if isinstance(one, IPv6Address) and one.is_link_local), None)

    async def raise_loopback(self) -> None:
        """Set lo up."""
        await self._socket.link("set", index=_LOOPBACK, state="up")

    async def add_loopback_address(self, address: Address) -> None:
        """Put a host address on lo; it is no error if it is there."""
        await self._socket.addr("replace", index=_LOOPBACK, address=str(address), prefixlen=address.max_prefixlen)

    async def remove_loopback_address(self, address: Address) -> None:
        """Remove a host address from lo."""
        await self._socket.addr("del", index=_LOOPBACK, address=str(address), prefixlen=address.max_prefixlen)

    async def route(self, address: Address) -> KernelRoute | None:
        """Return the route of a packet to this address; None if there is none, or it leads to this node itself."""
        try:
            answer = list(await self._socket.route("get", dst=str(address)))
        except NetlinkError as error:
            if error.code in _NO_ROUTE:
                return None
            raise
        return route_from(address, answer[0]) if answer else None

    async def default_egress(self, source: Address) -> set[int]:
        """Return the interfaces, by index, of the default route for packets from this address, all its next hops.

        Rules for packets from it count; the set is empty if there is no such route.
        """
        try:
            asked = await self._socket.route("get", dst=_WORLD[source.version], src=str(source), flags=_FIB_MATCH)
            answer = next(iter(list(asked)), None)
        except NetlinkError as error:
            if error.code in _NO_ROUTE:
                return set()
            raise
        return egress_of(answer) if answer is not None else set()

    async def resolve(self, neighbors: Iterable[tuple[int, Address]]) -> None:
        """Make the kernel resolve these neighbors, or confirm what it knows: XDP's own traffic would not."""
        for ifindex, address in neighbors:
            try:
                await self._socket.neigh("replace", dst=str(address), ifindex=ifindex, state="none", flags=_NTF_USE)
            except NetlinkError as error:
                if error.code not in _GONE:
                    raise

    async def neighbors(self) -> list[NeighborEntry]:
        """Return every neighbor whose MAC is known."""
        found = [neighbor_from(message) async for message in await self._socket.neigh("dump")]
        return [neighbor for neighbor in found if neighbor]


async def link_locals(names: Iterable[str]) -> dict[str, IPv6Address]:
    """Return a link-local IPv6 address of each of these interfaces that has one. AgentError: one does not exist."""
    netlink = Netlink()
    try:
        return {name: found for name in sorted(names) if (found := await netlink.link_local(name))}
    finally:
        netlink.close()
