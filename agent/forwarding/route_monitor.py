# SPDX-License-Identifier: Apache-2.0
"""Following the kernel's routes to the other nodes: who is asked when, and who is told what changed. I/O only.

What a next hop is made of is next_hop.py's; the messages are netlink.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

from pyroute2.netlink.exceptions import NetlinkError

from agent.address import Address
from agent.forwarding.next_hop import NextHop, next_hop, unresolved
from agent.netlink.connection import Netlink
from agent.netlink.link import Link
from agent.netlink.monitor import NetlinkEvent, NetlinkMonitor
from agent.netlink.route import KernelRoute

log = logging.getLogger("anylb")

COALESCE_S: Final = 0.01
"""A route daemon changes many routes at once; they are looked up once."""
ASK_AGAIN_S: Final = 0.2
"""How often a neighbor that does not answer is asked for."""
CONFIRM_S: Final = 5.0
"""How often every neighbor is confirmed, which XDP's traffic does not do: the kernel trusts one for 30 s."""
LOOK_AGAIN_S: Final = 30.0
"""How often every route is looked up without a reason, should the kernel ever have dropped a notice."""


class RouteMonitor:
    """The next hops of some addresses, kept true. Give it addresses by `follow`; it calls back with what changed."""

    def __init__(
        self,
        netlink: Netlink,
        uplinks: Iterable[int],
        on_hop: Callable[[Address, NextHop], None],
        on_mac: Callable[[int, bytes], None],
    ) -> None:
        """`on_hop`: an address has another next hop; `on_mac`: an uplink (by index) has another MAC."""
        self._netlink, self._uplinks = netlink, frozenset(uplinks)
        self._on_hop, self._on_mac = on_hop, on_mac
        self._addresses: frozenset[Address] = frozenset()
        self._ways: dict[Address, KernelRoute | None] = {}
        self._links: dict[int, Link] = {}
        self._macs: dict[tuple[int, Address], bytes] = {}
        self._hops: dict[Address, NextHop] = {}
        self._wake = asyncio.Event()
        self._links_changed = self._routes_changed = True

    def follow(self, addresses: Iterable[Address], known: Callable[[Address], NextHop | None]) -> None:
        """Keep the next hops of these addresses, and of no other. `known`: what the kernel's maps have of a new one."""
        wanted = frozenset(addresses)
        if wanted == self._addresses:
            return
        for address in wanted - self._addresses:
            if hop := known(address):
                self._hops[address] = hop
        for address in self._addresses - wanted:
            self._ways.pop(address, None)
            self._hops.pop(address, None)
        self._addresses = wanted
        self._wake.set()

    async def run(self) -> None:
        """Follow for ever."""
        with NetlinkMonitor(self._take) as notices:
            notices.listen()
            confirmed, looked = time.monotonic(), -LOOK_AGAIN_S
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ASK_AGAIN_S):
                        await self._wake.wait()
                        await asyncio.sleep(COALESCE_S)
                self._wake.clear()
                now = time.monotonic()
                try:
                    if now - looked >= LOOK_AGAIN_S:
                        self._links_changed = self._routes_changed = True
                        await self._look_at_neighbors()
                        looked = now
                    await self._look()
                    self._decide()
                    due = unresolved(filter(None, self._ways.values()), self._macs)
                    if now - confirmed >= CONFIRM_S:
                        due |= self._named()
                        confirmed = now
                    await self._netlink.resolve(due)
                except (NetlinkError, OSError) as error:
                    # An interface that comes or goes just now. What is known stands; it is looked up again.
                    log.warning("looking up routes: %s", error)
                    self._links_changed = self._routes_changed = True

    def _take(self, notice: NetlinkEvent) -> None:
        """What the kernel tells by itself: a neighbor is taken in, the rest is looked up again."""
        if notice.neighbor is not None:
            found = notice.neighbor
            if self._macs.get((found.ifindex, found.address)) == found.mac:
                return
            self._macs[found.ifindex, found.address] = found.mac
            if (found.ifindex, found.address) not in self._named():
                return
        elif notice.destination is not None and not any(a in notice.destination for a in self._addresses):
            return
        else:
            self._routes_changed = True
            self._links_changed |= notice.destination is None
        self._wake.set()

    async def _look_at_neighbors(self) -> None:
        """Take in those that the kernel has, and forget those that it no longer has and that no way names."""
        named = self._named()
        kept = {key: mac for key, mac in self._macs.items() if key in named}
        self._macs = kept | {(n.ifindex, n.address): n.mac for n in await self._netlink.neighbors()}

    def _named(self) -> set[tuple[int, Address]]:
        return {way.neighbor for way in self._ways.values() if way}

    async def _look(self) -> None:
        if self._links_changed:
            self._links_changed = False
            links = await self._netlink.links()
            for index in self._uplinks & links.keys():
                if links[index].mac != self._links.get(index, links[index]).mac:
                    log.info("%s has another MAC", links[index].name)
                    self._on_mac(index, links[index].mac)
            self._links = links
        due = self._addresses if self._routes_changed else self._addresses - self._ways.keys()
        self._routes_changed = False
        for address in due:
            self._ways[address] = await self._netlink.route(address)

    def _decide(self) -> None:
        for address in self._addresses & self._ways.keys():
            before = self._hops.get(address)
            after = next_hop(self._ways[address], self._links, self._macs, self._uplinks, before)
            if after is not None and after != before:
                self._hops[address] = after
                self._on_hop(address, after)
