# SPDX-License-Identifier: Apache-2.0
"""Which tables of the data path need the next hop of which address: one monitor follows the routes for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from typing import Protocol

from agent.address import Address
from agent.forwarding.next_hop import NextHop
from agent.forwarding.route_monitor import RouteMonitor
from agent.netlink.connection import Netlink
from agent.netlink.link import Link
from agent.problem import ProblemLine


class HopTable(Protocol):
    """A table with the next hops of some addresses."""

    def set_hop(self, target: Address, hop: NextHop) -> None:
        """Set the next hop of an address. It stays until another is set."""

    def known_hop(self, target: Address) -> NextHop | None:
        """Return the next hop of an address in the maps."""


class HopKeeper:
    """The next hops of all tables, kept up to date."""

    def __init__(
        self,
        netlink: Netlink,
        uplinks: Iterable[int],
        on_mac: Callable[[int, bytes], None],
        on_links: Callable[[Mapping[int, Link]], None],
    ) -> None:
        """`on_mac` and `on_links` as in RouteMonitor."""
        self._monitor = RouteMonitor(netlink, uplinks, self._set_hop, on_mac, on_links)
        self._followed: dict[HopTable, Set[Address]] = {}

    def follow(self, table: HopTable, targets: Set[Address]) -> None:
        """Keep the next hops of these addresses in a table up to date, and of no others."""
        for target in targets - self._followed.get(table, frozenset()):
            # The monitor reports changes only: what another table knows already is no change.
            if table.known_hop(target) is None and (hop := self._known_hop(target)):
                table.set_hop(target, hop)
        self._followed[table] = targets
        self._monitor.follow(frozenset().union(*self._followed.values()), self._known_hop)

    def _known_hop(self, target: Address) -> NextHop | None:
        known = (table.known_hop(target) for table in self._followed)
        return next((hop for hop in known if hop is not None), None)

    def _set_hop(self, target: Address, hop: NextHop) -> None:
        for table, targets in self._followed.items():
            if target in targets:
                table.set_hop(target, hop)

    def problems(self) -> list[ProblemLine]:
        """Return what keeps the kernel from resolving neighbors."""
        return self._monitor.problems()

    async def run(self) -> None:
        """Keep forever."""
        await self._monitor.run()
