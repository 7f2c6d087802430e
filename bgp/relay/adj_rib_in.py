# SPDX-License-Identifier: Apache-2.0
"""What the neighbors have told us: their sessions and their routes, in bounded memory.

Pure, as reconciler.py is, which feeds it. Standard library only: the relay carries this file (helper_archive.py).

ExaBGP reports a session's end but no withdrawals with it, so the routes of a neighbor that is down are dropped. A
neighbor has said all it had (`eor`) when it sent an End-of-RIB (RFC 4724 section 2), or, since FRR sends none to a
speaker without graceful restart, when it has been silent for 1 s, or up for 10 s.
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
"""Of the routes as JSON; a snapshot with its other parts stays below snapshot.MAX_LINE_BYTES."""
_RELEARN_BELOW = 0.8


@dataclass
class NeighborRib:
    """One neighbor: as snapshot.Peer, but growing. `heard_at`: when the last update came.

    `own_as`: as what we speak to it, 0 until ExaBGP has described it. `families`: those configured for it; `agreed`:
    those that it took in this session.
    """

    address: str
    up: bool = False
    since: float = 0.0
    eor: bool = False
    heard_at: float = 0.0
    routes: dict[str, Route] = field(default_factory=dict)
    own_as: int = 0
    peer_as: int = 0
    own_address: str = ""
    families: frozenset[str] = frozenset()
    agreed: frozenset[str] = frozenset()

    @property
    def known(self) -> bool:
        """Whether ExaBGP has described it: a first event may come before that."""
        return self.own_as > 0

    def hears(self, routes: Iterable[Route]) -> list[Route]:
        """What of `routes` it is to be told, as it is to be told."""
        fitting = (route for route in routes if ("ipv6" if route.ipv6 else "ipv4") in self.families)
        return [route.towards(self.own_as, self.peer_as, self.own_address) for route in fitting]


@dataclass
class _Listing:
    """An answer to "list what you have learned" while it comes in."""

    routes: dict[tuple[str, str], Route] = field(default_factory=dict)
    newer: set[tuple[str, str]] = field(default_factory=set)
    """What changed while ExaBGP was listing: the list is out of date there."""
    restarted: set[str] = field(default_factory=set)
    """Neighbors whose session changed meanwhile."""


class AdjRibIn:
    """All neighbors. `revision` grows with each change."""

    def __init__(self) -> None:
        self.revision = 0
        self._neighbors: dict[str, NeighborRib] = {}
        self._listing: _Listing | None = None
        self._count = 0
        self._bytes = 0
        self._overflow = False

    @property
    def neighbors(self) -> list[NeighborRib]:
        """All neighbors, by address as text."""
        return [self._neighbors[address] for address in sorted(self._neighbors)]

    @property
    def errors(self) -> list[str]:
        """What is missing here, and why."""
        found = [
            f"neighbor {n.address} does not take {family}: enable it there, or leave it out of families"
            for n in self.neighbors
            for family in sorted(n.families - n.agreed)
            if n.up and n.agreed
        ]
        if self._overflow:
            size = f"{MAX_ROUTES} routes or {MAX_BYTES >> 20} MB of them"
            found.append(f"more than {size}: some are left out; filter at the router")
        return found

    @property
    def wants_relearning(self) -> bool:
        """Whether routes were left out for which there is room again."""
        return self._overflow and self._count < MAX_ROUTES * _RELEARN_BELOW and self._bytes < MAX_BYTES * _RELEARN_BELOW

    def neighbors_are(self, described: Iterable[messages.NeighborStatus], now: float) -> None:
        """Take ExaBGP's own list of all neighbors: those that it does not name are gone."""
        by_address = {one.peer: one for one in described}
        for address in self._neighbors.keys() - by_address.keys():
            self._forget_routes(self._neighbors.pop(address))
            self.revision += 1
        for address, one in by_address.items():
            known = self._neighbors.get(address)
            if known is None or known.up != one.up:
                if known is not None:
                    self._forget_routes(known)
                since = now - one.for_s if one.up else 0.0
                known = self._neighbors[address] = NeighborRib(address, one.up, since, heard_at=since)
                self.revision += 1
            if known.agreed != one.agreed:
                self.revision += 1
            known.own_as, known.peer_as, known.own_address = one.own_as, one.peer_as, one.own_address
            known.families, known.agreed = one.families, one.agreed

    def session(self, address: str, up: bool, now: float) -> bool:
        """A session came up or went down: what was learned in the one before is void. Says whether that is news."""
        old = self._neighbors.get(address, NeighborRib(address))
        self._forget_routes(old)
        if self._listing is not None:
            self._listing.restarted.add(address)
        if not up and not old.up and address in self._neighbors:
            return False  # an attempt to connect that failed, which ExaBGP reports as "down" each time
        # Until ExaBGP has described the session, it is taken to carry all that it should.
        new = replace(old, up=up, since=now, eor=False, heard_at=now, routes={}, agreed=old.families)
        self._neighbors[address] = new
        self.revision += 1
        return True

    def update(self, address: str, announced: Iterable[Route], withdrawn: Iterable[str], now: float) -> None:
        """Routes came and went."""
        neighbor = self._neighbors.setdefault(address, NeighborRib(address))
        neighbor.heard_at = now
        for prefix in withdrawn:
            self._drop(neighbor, prefix)
            self._mark_newer(address, prefix)
        for route in announced:
            self._put(neighbor, route)
            self._mark_newer(address, route.prefix)
        self.revision += 1

    def end_of_rib(self, address: str, family: str) -> None:
        """The neighbor has sent all it had of a family. What is waited for are identities, which are IPv4's."""
        neighbor = self._neighbors.setdefault(address, NeighborRib(address))
        if family == "ipv4" or "ipv4" not in neighbor.families:
            neighbor.eor = True
            self.revision += 1

    def tick(self, now: float) -> None:
        """Let time pass: silence counts as an End-of-RIB."""
        for neighbor in self._neighbors.values():
            settled = now - neighbor.heard_at >= QUIET_S or now - neighbor.since >= SETTLED_S
            if neighbor.up and not neighbor.eor and settled:
                neighbor.eor = True
                self.revision += 1

    def begin_listing(self) -> None:
        """ExaBGP is about to list all it has learned."""
        self._listing = _Listing()

    def listed(self, address: str, route: Route) -> None:
        """One line of that list."""
        if self._listing is None:
            return
        if len(self._listing.routes) < MAX_ROUTES:
            self._listing.routes[address, route.prefix] = route
        else:
            self._overflow = True

    def end_listing(self) -> None:
        """The list is complete: it replaces what we had, except where news came meanwhile."""
        listing, self._listing = self._listing or _Listing(), None
        self._overflow = len(listing.routes) >= MAX_ROUTES
        for neighbor in self._neighbors.values():
            if neighbor.address in listing.restarted:
                continue
            for prefix in [p for p in neighbor.routes if (neighbor.address, p) not in listing.newer]:
                self._drop(neighbor, prefix)
        for (address, prefix), route in listing.routes.items():
            known = self._neighbors.get(address)
            # ExaBGP still lists what a neighbor that is down had said.
            if known and known.up and address not in listing.restarted and (address, prefix) not in listing.newer:
                self._put(known, route)
        self.revision += 1

    def _mark_newer(self, address: str, prefix: str) -> None:
        if self._listing is not None:
            self._listing.newer.add((address, prefix))

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

    def _forget_routes(self, neighbor: NeighborRib) -> None:
        for route in neighbor.routes.values():
            self._account(route, -1)
        neighbor.routes = {}

    def _account(self, route: Route, sign: int) -> None:
        self._count += sign
        self._bytes += sign * _json_bytes(route)


def _json_bytes(route: Route) -> int:
    """At most so many bytes of a snapshot."""
    numbers = 36 * len(route.large_communities) + 16 * len(route.communities) + 11 * len(route.as_path)
    return 220 + numbers
