# SPDX-License-Identifier: Apache-2.0
"""The kernel's routes to the addresses that are followed, indexed by neighbor and by prefix. Pure.

An event about one neighbor or one prefix costs what it concerns, not a pass through all routes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, KeysView

from agent.address import Address, Network
from agent.netlink.neighbor import Neighbor
from agent.netlink.route import KernelRoute


class RouteTable:
    """Routes by address. An address that is followed and has no entry has not been looked up yet."""

    def __init__(self) -> None:
        self.addresses: frozenset[Address] = frozenset()
        self._sorted: dict[int, list[Address]] = {4: [], 6: []}
        self._routes: dict[Address, KernelRoute | None] = {}
        self._users: dict[Neighbor, set[Address]] = {}

    def follow(self, addresses: Iterable[Address]) -> None:
        """Replace the followed addresses; forget the routes of the others."""
        wanted = frozenset(addresses)
        for address in self.addresses - wanted:
            self._forget(address)
        self.addresses = wanted
        self._sorted = {v: sorted((a for a in wanted if a.version == v), key=int) for v in (4, 6)}

    def get(self, address: Address) -> KernelRoute | None:
        """Return the route to an address; None if it has none, or has not been looked up."""
        return self._routes.get(address)

    def put(self, address: Address, route: KernelRoute | None) -> bool:
        """Set the route to an address that is followed (any other is ignored); return whether it is another one."""
        if address not in self.addresses or (address in self._routes and self._routes[address] == route):
            return False
        self._forget(address)
        self._routes[address] = route
        if route is not None:
            self._users.setdefault(route.neighbor, set()).add(address)
        return True

    @property
    def neighbors(self) -> KeysView[Neighbor]:
        """The neighbors that routes lead to."""
        return self._users.keys()

    def users(self, neighbor: Neighbor) -> Collection[Address]:
        """Return the addresses whose routes lead to a neighbor."""
        return self._users.get(neighbor, ())

    def within(self, prefix: Network) -> list[Address]:
        """Return the followed addresses in a prefix: of the sorted ones, a contiguous range."""
        found = self._sorted[prefix.version]
        first = bisect_left(found, int(prefix.network_address), key=int)
        return found[first : bisect_right(found, int(prefix.broadcast_address), lo=first, key=int)]

    def _forget(self, address: Address) -> None:
        route = self._routes.pop(address, None)
        if route is not None:
            users = self._users[route.neighbor]
            users.remove(address)
            if not users:
                del self._users[route.neighbor]
