# SPDX-License-Identifier: Apache-2.0
"""The monitor of the kernel's routes to the other nodes: it resolves their next hops and reports changes. I/O only.

next_hop.py decides the next hop; route_table.py has the routes; backoff.py the neighbors that do not answer; netlink/
the messages.

1. An event marks what it concerns: addresses whose route is outdated, or whose next hop is undecided.
2. A pass looks these up, asks the kernel for the neighbors that are new, has those without a MAC resolved, and decides.
3. Without an event, a pass is due when a neighbor without a MAC is (backoff.py), and after CONFIRM_S and REFRESH_S.

No step occupies the event loop for longer than one portion takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Final, TypeVar

from pyroute2.netlink.exceptions import NetlinkError

from agent.address import Address
from agent.errors import AgentError
from agent.forwarding.backoff import Backoff
from agent.forwarding.next_hop import NextHop, next_hop
from agent.forwarding.route_table import RouteTable
from agent.netlink import batch
from agent.netlink.connection import Netlink
from agent.netlink.link import Link
from agent.netlink.monitor import Group, NetlinkEvent, NetlinkMonitor
from agent.netlink.neighbor import Neighbor, NeighborEntry
from agent.netlink.neighbor_limit import raise_neighbor_limits
from agent.problem import Problem, ProblemLine

log = logging.getLogger("anylb")

COALESCE_S: Final = 0.01
"""A routing daemon changes many routes at once; they are looked up once."""
CONFIRM_S: Final = 5.0
"""The interval at which every neighbor that answers is confirmed, since XDP's traffic does not confirm it: the kernel
trusts one for 30 s."""
REFRESH_S: Final = 30.0
"""The interval at which everything is looked up without an event, in case the kernel dropped one."""
RETRY_S: Final = 0.2
"""The time until everything is looked up again after an error."""
PORTION: Final = 128
"""How many addresses are handled at once: about 2 ms."""

T = TypeVar("T")

NO_ROOM = Problem(
    "the kernel has no room for {count} neighbors, to which nothing can be sent",
    "raise net.ipv{version}.neigh.default.gc_thresh3, in the machine's own network namespace",
    "The agent raises the limit itself where it may; it cannot from within a container's namespace.",
)


class RouteMonitor:
    """The next hops of some addresses, kept up to date. `follow` sets the addresses; callbacks report changes."""

    def __init__(
        self,
        netlink: Netlink,
        uplinks: Iterable[int],
        on_hop: Callable[[Address, NextHop], None],
        on_mac: Callable[[int, bytes], None],
        on_links: Callable[[Mapping[int, Link]], None],
    ) -> None:
        """Call `on_hop` when an address has another next hop, `on_mac` when an uplink (by index) has another MAC, and
        `on_links` when interfaces may have changed."""
        self._netlink, self._uplinks = netlink, frozenset(uplinks)
        self._on_hop, self._on_mac, self._on_links = on_hop, on_mac, on_links
        self._routes = RouteTable()
        self._links: dict[int, Link] = {}
        self._macs: dict[Neighbor, bytes] = {}
        """The last MACs of neighbors: those that routes lead to, and some that they led to before."""
        self._maintained: set[Neighbor] = set()
        """Neighbors that someone else maintains."""
        self._hops: dict[Address, NextHop] = {}
        self._links_changed = True
        self._outdated: set[Address] = set()
        self._undecided: set[Address] = set()
        self._error = ""
        self._absent = Backoff()
        self._confirm_at = self._refresh_at = -math.inf
        self._without_room: set[Neighbor] = set()
        self._wake = asyncio.Event()
        self._limit_errors: set[str] = set()

    def follow(self, addresses: Iterable[Address], known: Callable[[Address], NextHop | None]) -> None:
        """Monitor these addresses and no others. `known` returns the next hop of a new one in the maps, if any."""
        before, wanted = self._routes.addresses, frozenset(addresses)
        if wanted == before:
            return
        for address in wanted - before:
            if hop := known(address):
                self._hops[address] = hop
        for address in before - wanted:
            self._hops.pop(address, None)
        self._routes.follow(wanted)
        self._outdated |= wanted - before
        self._wake.set()

    async def run(self) -> None:
        """Monitor forever."""
        with NetlinkMonitor(self._on_event, Group.LINKS | Group.NEIGHBORS | Group.ROUTES) as monitor:
            monitor.listen()
            while True:
                try:
                    await self._pass(time.monotonic())
                    self._error = ""
                except (NetlinkError, OSError) as error:
                    # An interface appears or disappears right now. The known state stays; all is looked up again.
                    if str(error) != self._error:
                        log.warning("looking up routes: %s", error)
                    self._error = str(error)
                    self._confirm_at = self._refresh_at = time.monotonic() + RETRY_S
                due = min(self._confirm_at, self._refresh_at, self._absent.next_at)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(due - time.monotonic()):
                        await self._wake.wait()
                        await asyncio.sleep(COALESCE_S)
                self._wake.clear()

    def _on_event(self, event: NetlinkEvent) -> None:
        """Mark what an event concerns."""
        if event.neighbor is not None:
            self._learn(event.neighbor)
        elif event.destination is not None:
            self._outdated.update(self._routes.within(event.destination))
        else:
            self._links_changed = True
            self._outdated |= self._routes.addresses
        if self._links_changed or self._outdated or self._undecided:
            self._wake.set()

    def _learn(self, entry: NeighborEntry) -> None:
        """Store what the kernel knows of a neighbor. It keeps its last MAC when it fails."""
        key = entry.key
        if key not in self._routes.neighbors and key not in self._macs:
            return
        if entry.maintained:
            self._maintained.add(key)
        else:
            self._maintained.discard(key)
        if entry.mac is None:
            if key in self._routes.neighbors:
                self._absent.failed(key, time.monotonic())
            return
        self._absent.answered(key)
        if entry.mac != self._macs.get(key):
            self._macs[key] = entry.mac
            self._undecided.update(self._routes.users(key))

    async def _pass(self, now: float) -> None:
        refresh, confirm = now >= self._refresh_at, now >= self._confirm_at
        if refresh:
            self._refresh_at = now + REFRESH_S
            self._links_changed = True
            self._outdated |= self._routes.addresses
        await self._read_links()
        new = await self._read_routes()
        routed = self._routes.neighbors
        if refresh:
            self._macs = {key: mac for key, mac in self._macs.items() if key in routed}
            self._maintained &= routed
            new |= routed - self._macs.keys()
        self._absent.keep(routed)
        self._absent.add(new, now)
        if refresh or new:
            self._make_room()
        asked = self._absent.take(now)
        await self._read_neighbors(routed if refresh else new | asked)
        await self._decide()
        asked &= self._absent.neighbors
        if confirm:
            self._confirm_at = now + CONFIRM_S
            asked |= routed - self._absent.neighbors
        await self._confirm(asked - self._maintained)

    async def _read_links(self) -> None:
        if not self._links_changed:
            return
        self._links_changed = False
        links = await self._netlink.links()
        for index in self._uplinks & links.keys():
            if links[index].mac != self._links.get(index, links[index]).mac:
                log.info("%s has another MAC", links[index].name)
                self._on_mac(index, links[index].mac)
        if links != self._links:
            self._links = links
            self._absent.reset(time.monotonic())
            self._undecided |= self._routes.addresses
        self._on_links(links)  # also what no message has may have changed: offloads

    async def _read_routes(self) -> set[Neighbor]:
        """Look up the outdated routes; return the neighbors of those that changed whose MACs are unknown."""
        new = set()
        for some in _portions(self._outdated):
            for address, route in batch.routes(some).items():
                if self._routes.put(address, route):
                    self._undecided.add(address)
                    if route is not None and route.neighbor not in self._macs:
                        new.add(route.neighbor)
            await asyncio.sleep(0)
        return new

    async def _read_neighbors(self, wanted: Set[Neighbor]) -> None:
        for some in _portions(set(wanted)):
            for entry in batch.neighbors(some):
                self._learn(entry)
            await asyncio.sleep(0)

    async def _decide(self) -> None:
        for some in _portions(self._undecided):
            for address in some:
                before = self._hops.get(address)
                after = next_hop(self._routes.get(address), self._links, self._macs, self._uplinks, before)
                if after is not None and after != before:
                    self._hops[address] = after
                    self._on_hop(address, after)
            await asyncio.sleep(0)

    async def _confirm(self, wanted: Set[Neighbor]) -> None:
        without_room: set[Neighbor] = set()
        for some in _portions(set(wanted)):
            without_room |= batch.confirm(some)
            await asyncio.sleep(0)
        self._without_room = (self._without_room - wanted | without_room) & self._routes.neighbors

    def problems(self) -> list[ProblemLine]:
        """Return that the kernel has no room for neighbors, one line for each IP version."""
        counts = Tally(address.version for _, address in self._without_room)
        return [NO_ROOM.line(count=count, version=version) for version, count in sorted(counts.items())]

    def _make_room(self) -> None:
        """Make room for the neighbors in the kernel. Without it some are resolved again and again, or never."""
        for version in (4, 6):
            count = sum(address.version == version for _, address in self._routes.neighbors)
            try:
                if settings := raise_neighbor_limits(version, count):
                    log.info("made room for %d neighbors: %s", count, ", ".join(settings))
            except AgentError as error:
                if str(error) not in self._limit_errors:
                    log.warning("%s", error)
                self._limit_errors.add(str(error))


def _portions(source: set[T]) -> Iterator[list[T]]:
    """Remove everything from a set, a portion at a time, also what is added meanwhile."""
    while source:
        yield [source.pop() for _ in range(min(PORTION, len(source)))]
