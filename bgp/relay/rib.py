# SPDX-License-Identifier: Apache-2.0
"""The routes of one neighbor, by prefix, in bounded memory: an Adj-RIB-In or an Adj-RIB-Out (RFC 4271 section 3.2).

Each neighbor has limits of its own, so a router that sends too much loses only routes of its own. Pure. Standard
library only: the relay archive carries this file.
"""

from __future__ import annotations

from collections.abc import Mapping

from bgp.route import Route

MAX_ROUTES = 16_384
MAX_BYTES = 64 << 20
"""Of memory, as `_memory_bytes` counts. 1,000 identities count 2 MB."""
_ROOM = 0.8


class Rib:
    """Routes by prefix. An equal route does not replace the one that is there, so what is equal is the same object.

    `overflow`: a route was refused because of the limits.
    """

    def __init__(self, max_routes: int = MAX_ROUTES, max_bytes: int = MAX_BYTES) -> None:
        self.overflow = False
        self._max_routes, self._max_bytes = max_routes, max_bytes
        self._by_prefix: dict[str, Route] = {}
        self._bytes = 0
        self._routes: tuple[Route, ...] | None = ()

    @property
    def by_prefix(self) -> Mapping[str, Route]:
        """All routes by prefix."""
        return self._by_prefix

    @property
    def routes(self) -> tuple[Route, ...]:
        """All routes; the same tuple as long as none changes. A changed route keeps its position: report.py compares by
        position first."""
        if self._routes is None:
            self._routes = tuple(self._by_prefix.values())
        return self._routes

    @property
    def has_room(self) -> bool:
        """Whether a fifth of both limits is free."""
        return len(self._by_prefix) < self._max_routes * _ROOM and self._bytes < self._max_bytes * _ROOM

    def put(self, route: Route) -> bool:
        """Add a route, or replace the one to its prefix; beyond the limits none remains to it. Return whether that is a
        change."""
        before = self._by_prefix.get(route.prefix)
        if before == route:
            return False
        size = _memory_bytes(route) - (_memory_bytes(before) if before else 0)
        if (before is None and len(self._by_prefix) >= self._max_routes) or self._bytes + size > self._max_bytes:
            self.overflow = True
            return self.drop(route.prefix)
        self._by_prefix[route.prefix] = route
        self._bytes += size
        self._routes = None
        return True

    def drop(self, prefix: str) -> bool:
        """Remove the route to a prefix; return whether there was one."""
        route = self._by_prefix.pop(prefix, None)
        if route is None:
            return False
        self._bytes -= _memory_bytes(route)
        self._routes = None
        return True


def _memory_bytes(route: Route) -> int:
    """Return the memory that a route takes at most: route.py keeps equal communities once, but a router may send
    routes without any that are equal."""
    return 700 + 168 * len(route.large_communities) + 120 * len(route.communities) + 40 * len(route.as_path)
