# SPDX-License-Identifier: Apache-2.0
"""The monitor of the kernel's routes to the other nodes: it resolves their next hops and reports changes. I/O only.

next_hop.py decides the next hop; netlink/ has the messages.
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
from agent.forwarding.next_hop import NextHop, next_hop, unresolved_neighbors
from agent.netlink.connection import Netlink
from agent.netlink.link import Link
from agent.netlink.monitor import NetlinkEvent, NetlinkMonitor
from agent.netlink.route import KernelRoute

log = logging.getLogger("anylb")

COALESCE_S: Final = 0.01
"""A routing daemon changes many routes at once; they are looked up once."""
RESOLVE_S: Final = 0.2
"""The interval of attempts to resolve a neighbor that does not answer."""
CONFIRM_S: Final = 5.0
"""The interval at which every neighbor is confirmed, since XDP's traffic does not: the kernel trusts one for 30 s."""
REFRESH_S: Final = 30.0
"""The interval at which every route is looked up without an event, in case the kernel dropped one."""


class RouteMonitor:
    """The next hops of some addresses, kept up to date. `follow` sets the addresses; callbacks report changes."""

    def __init__(
        self,
        netlink: Netlink,
        uplinks: Iterable[int],
        on_hop: Callable[[Address, NextHop], None],
        on_mac: Callable[[int, bytes], None],
    ) -> None:
        """Call `on_hop` when an address has another next hop, `on_mac` when an uplink (by index) has another MAC."""
        self._netlink, self._uplinks = netlink, frozenset(uplinks)
        self._on_hop, self._on_mac = on_hop, on_mac
        self._addresses: frozenset[Address] = frozenset()
        self._routes: dict[Address, KernelRoute | None] = {}
        self._links: dict[int, Link] = {}
        self._macs: dict[tuple[int, Address], bytes] = {}
        self._hops: dict[Address, NextHop] = {}
        self._wake = asyncio.Event()
        self._links_changed = self._routes_changed = True

    def follow(self, addresses: Iterable[Address], known: Callable[[Address], NextHop | None]) -> None:
        """Monitor these addresses and no others. `known` returns the next hop of a new one in the maps, if any."""
        wanted = frozenset(addresses)
        if wanted == self._addresses:
            return
        for address in wanted - self._addresses:
            if hop := known(address):
                self._hops[address] = hop
        for address in self._addresses - wanted:
            self._routes.pop(address, None)
            self._hops.pop(address, None)
        self._addresses = wanted
        self._wake.set()

    async def run(self) -> None:
        """Monitor forever."""
        with NetlinkMonitor(self._on_event) as monitor:
            monitor.listen()
            confirmed, refreshed = time.monotonic(), -REFRESH_S
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RESOLVE_S):
                        await self._wake.wait()
                        await asyncio.sleep(COALESCE_S)
                self._wake.clear()
                now = time.monotonic()
                try:
                    if now - refreshed >= REFRESH_S:
                        self._links_changed = self._routes_changed = True
                        await self._read_neighbors()
                        refreshed = now
                    await self._read_routes()
                    self._decide()
                    due = unresolved_neighbors(filter(None, self._routes.values()), self._macs)
                    if now - confirmed >= CONFIRM_S:
                        due |= self._routed_neighbors()
                        confirmed = now
                    await self._netlink.resolve(due)
                except (NetlinkError, OSError) as error:
                    # An interface appears or disappears right now. The known state stays; all is looked up again.
                    log.warning("looking up routes: %s", error)
                    self._links_changed = self._routes_changed = True

    def _on_event(self, event: NetlinkEvent) -> None:
        """Store the neighbor of an event; have everything else looked up again."""
        if event.neighbor is not None:
            found = event.neighbor
            if self._macs.get((found.ifindex, found.address)) == found.mac:
                return
            self._macs[found.ifindex, found.address] = found.mac
            if (found.ifindex, found.address) not in self._routed_neighbors():
                return
        elif event.destination is not None and not any(a in event.destination for a in self._addresses):
            return
        else:
            self._routes_changed = True
            self._links_changed |= event.destination is None
        self._wake.set()

    async def _read_neighbors(self) -> None:
        """Replace the neighbors by those that the kernel has; keep those that it dropped while a route names them."""
        routed = self._routed_neighbors()
        kept = {key: mac for key, mac in self._macs.items() if key in routed}
        self._macs = kept | {(n.ifindex, n.address): n.mac for n in await self._netlink.neighbors()}

    def _routed_neighbors(self) -> set[tuple[int, Address]]:
        return {route.neighbor for route in self._routes.values() if route}

    async def _read_routes(self) -> None:
        if self._links_changed:
            self._links_changed = False
            links = await self._netlink.links()
            for index in self._uplinks & links.keys():
                if links[index].mac != self._links.get(index, links[index]).mac:
                    log.info("%s has another MAC", links[index].name)
                    self._on_mac(index, links[index].mac)
            self._links = links
        due = self._addresses if self._routes_changed else self._addresses - self._routes.keys()
        self._routes_changed = False
        for address in due:
            self._routes[address] = await self._netlink.route(address)

    def _decide(self) -> None:
        for address in self._addresses & self._routes.keys():
            before = self._hops.get(address)
            after = next_hop(self._routes[address], self._links, self._macs, self._uplinks, before)
            if after is not None and after != before:
                self._hops[address] = after
                self._on_hop(address, after)
