# SPDX-License-Identifier: Apache-2.0
"""The Adj-RIBs-In: each neighbor's session and the routes learned from it, in bounded memory.

Pure, as is reconciler.py, which passes ExaBGP's messages on. Standard library only: the relay archive carries this
file.

ExaBGP reports the end of a session without withdrawals, so the routes of a neighbor that is down are dropped here. A
neighbor has sent its whole table (`eor`) after an End-of-RIB (RFC 4724 section 2), or, because FRR sends none to a
speaker without graceful restart, after 1 s without updates, or 10 s after the session came up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from bgp.exabgp import messages
from bgp.route import Route

QUIET_S = 1.0
SETTLED_S = 10.0
MAX_ROUTES = 8192
MAX_BYTES = 3 << 20
"""Of the routes as JSON; a whole snapshot stays below protocol.MAX_LINE_BYTES."""
_RELEARN_BELOW = 0.8


@dataclass
class NeighborRib:
    """One neighbor: as protocol.Peer, but mutable.

    `updated_at`: the time of the last update. `local_as`: our AS towards it, 0 until ExaBGP has described it.
    `families`: those configured for it; `negotiated`: those of this session.
    """

    address: str
    up: bool = False
    since: float = 0.0
    eor: bool = False
    updated_at: float = 0.0
    routes: dict[str, Route] = field(default_factory=dict)
    local_as: int = 0
    peer_as: int = 0
    local_address: str = ""
    families: frozenset[str] = frozenset()
    negotiated: frozenset[str] = frozenset()

    @property
    def described(self) -> bool:
        """Whether ExaBGP has described it: a first event may come earlier."""
        return self.local_as > 0

    def export(self, routes: Iterable[Route]) -> list[Route]:
        """Return those of `routes` that are of its families, with the attributes for this neighbor."""
        exported = (route for route in routes if ("ipv6" if route.ipv6 else "ipv4") in self.families)
        return [route.for_neighbor(self.local_as, self.peer_as, self.local_address) for route in exported]


@dataclass
class _Listing:
    """The answer to `show adj-rib in` while it arrives."""

    routes: dict[tuple[str, str], Route] = field(default_factory=dict)
    updated: set[tuple[str, str]] = field(default_factory=set)
    """Neighbor and prefix of updates that came meanwhile: the list is out of date for these."""
    restarted: set[str] = field(default_factory=set)
    """Neighbors whose session came up or went down meanwhile."""


class AdjRibIn:
    """The Adj-RIBs-In of all neighbors. `revision` grows with each change."""

    def __init__(self) -> None:
        self.revision = 0
        self._neighbors: dict[str, NeighborRib] = {}
        self._listing: _Listing | None = None
        self._count = 0
        self._bytes = 0
        self._overflow = False

    @property
    def neighbors(self) -> list[NeighborRib]:
        """All neighbors, sorted by address as text."""
        return [self._neighbors[address] for address in sorted(self._neighbors)]

    @property
    def errors(self) -> list[str]:
        """The families and routes that are missing here, and why."""
        found = [
            f"neighbor {n.address} does not accept {family}: enable it there, or remove it from families"
            for n in self.neighbors
            for family in sorted(n.families - n.negotiated)
            if n.up and n.negotiated
        ]
        if self._overflow:
            size = f"{MAX_ROUTES} routes or {MAX_BYTES >> 20} MB of them"
            found.append(f"more than {size}: some are ignored; filter at the router")
        return found

    @property
    def wants_relearning(self) -> bool:
        """Whether routes were ignored for which there is room again."""
        return self._overflow and self._count < MAX_ROUTES * _RELEARN_BELOW and self._bytes < MAX_BYTES * _RELEARN_BELOW

    def set_neighbors(self, statuses: Iterable[messages.NeighborStatus], now: float) -> None:
        """Replace the neighbors by ExaBGP's own list; a neighbor that is missing in it was removed."""
        by_address = {status.address: status for status in statuses}
        for address in self._neighbors.keys() - by_address.keys():
            self._drop_all(self._neighbors.pop(address))
            self.revision += 1
        for address, status in by_address.items():
            neighbor = self._neighbors.get(address)
            if neighbor is None or neighbor.up != status.up:
                if neighbor is not None:
                    self._drop_all(neighbor)
                since = now - status.uptime_s if status.up else 0.0
                neighbor = self._neighbors[address] = NeighborRib(address, status.up, since, updated_at=since)
                self.revision += 1
            if neighbor.negotiated != status.negotiated:
                self.revision += 1
            neighbor.local_as, neighbor.peer_as = status.local_as, status.peer_as
            neighbor.local_address = status.local_address
            neighbor.families, neighbor.negotiated = status.families, status.negotiated

    def change_session(self, address: str, up: bool, now: float) -> bool:
        """Record that a session came up or went down, and drop the routes of the previous one.

        Return whether that is a change.
        """
        old = self._neighbors.get(address, NeighborRib(address))
        self._drop_all(old)
        if self._listing is not None:
            self._listing.restarted.add(address)
        if not up and not old.up and address in self._neighbors:
            return False  # a failed connection attempt, which ExaBGP reports as "down" each time
        # Until ExaBGP has described the session, we assume that it carries all configured families.
        new = replace(old, up=up, since=now, eor=False, updated_at=now, routes={}, negotiated=old.families)
        self._neighbors[address] = new
        self.revision += 1
        return True

    def update(self, address: str, advertised: Iterable[Route], withdrawn: Iterable[str], now: float) -> None:
        """Apply an UPDATE of a neighbor."""
        neighbor = self._neighbors.setdefault(address, NeighborRib(address))
        neighbor.updated_at = now
        for prefix in withdrawn:
            self._drop(neighbor, prefix)
            self._mark_updated(address, prefix)
        for route in advertised:
            self._put(neighbor, route)
            self._mark_updated(address, route.prefix)
        self.revision += 1

    def end_of_rib(self, address: str, family: str) -> None:
        """Record an End-of-RIB. The one that matters is that of IPv4, which carries the identities."""
        neighbor = self._neighbors.setdefault(address, NeighborRib(address))
        if family == "ipv4" or "ipv4" not in neighbor.families:
            neighbor.eor = True
            self.revision += 1

    def tick(self, now: float) -> None:
        """Act on the time: silence counts as an End-of-RIB."""
        for neighbor in self._neighbors.values():
            settled = now - neighbor.updated_at >= QUIET_S or now - neighbor.since >= SETTLED_S
            if neighbor.up and not neighbor.eor and settled:
                neighbor.eor = True
                self.revision += 1

    def begin_listing(self) -> None:
        """Start to collect ExaBGP's list of learned routes."""
        self._listing = _Listing()

    def add_listed(self, address: str, route: Route) -> None:
        """Add one route of that list."""
        if self._listing is None:
            return
        if len(self._listing.routes) < MAX_ROUTES:
            self._listing.routes[address, route.prefix] = route
        else:
            self._overflow = True

    def end_listing(self) -> None:
        """Replace the routes by the complete list, except those that were updated meanwhile."""
        listing, self._listing = self._listing or _Listing(), None
        self._overflow = len(listing.routes) >= MAX_ROUTES
        for neighbor in self._neighbors.values():
            if neighbor.address in listing.restarted:
                continue
            for prefix in [p for p in neighbor.routes if (neighbor.address, p) not in listing.updated]:
                self._drop(neighbor, prefix)
        for (address, prefix), route in listing.routes.items():
            neighbor_rib = self._neighbors.get(address)
            if neighbor_rib is None or not neighbor_rib.up:
                continue  # ExaBGP still lists the routes of a neighbor that is down
            if address not in listing.restarted and (address, prefix) not in listing.updated:
                self._put(neighbor_rib, route)
        self.revision += 1

    def _mark_updated(self, address: str, prefix: str) -> None:
        if self._listing is not None:
            self._listing.updated.add((address, prefix))

    def _put(self, neighbor: NeighborRib, route: Route) -> None:
        self._drop(neighbor, route.prefix)
        if self._count >= MAX_ROUTES or self._bytes + _json_bytes(route) > MAX_BYTES:
            self._overflow = True
            return
        neighbor.routes[route.prefix] = route
        self._account(route, 1)

    def _drop(self, neighbor: NeighborRib, prefix: str) -> None:
        route = neighbor.routes.pop(prefix, None)
        if route is not None:
            self._account(route, -1)

    def _drop_all(self, neighbor: NeighborRib) -> None:
        for route in neighbor.routes.values():
            self._account(route, -1)
        neighbor.routes = {}

    def _account(self, route: Route, sign: int) -> None:
        self._count += sign
        self._bytes += sign * _json_bytes(route)


def _json_bytes(route: Route) -> int:
    """Return an upper limit for the size of a route in a snapshot."""
    numbers = 36 * len(route.large_communities) + 16 * len(route.communities) + 11 * len(route.as_path)
    return 220 + numbers
