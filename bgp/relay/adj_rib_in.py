# SPDX-License-Identifier: Apache-2.0
"""The Adj-RIBs-In: each neighbor's session and the routes learned from it, within limits for each neighbor (rib.py).

Only host routes inside the allowlist are learned: identities and VIPs (allowlist.py). What else a router sends is
counted and dropped here, so that a leak of any size crowds nothing out.

Pure, as is reconciler.py, which passes ExaBGP's messages on. Standard library only: the relay archive carries this
file.

ExaBGP reports the end of a session without withdrawals, so the routes of a neighbor that is down are dropped here. A
neighbor has sent its whole table (`eor`) after an End-of-RIB (RFC 4724 section 2), or, because FRR sends none to a
speaker without graceful restart, after 1 s without updates, or 10 s after the session came up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from bgp.exabgp import down_reason, messages
from bgp.relay.allowlist import ANY, Network, passes
from bgp.relay.rib import MAX_BYTES, MAX_ROUTES, Rib
from bgp.route import Route

QUIET_S = 1.0
SETTLED_S = 10.0


@dataclass
class NeighborRib:
    """One neighbor: as protocol.Peer, but mutable.

    `ended`: why the last session ended. `failing`: why the last attempt since then, or the only one so far, failed.
    `retry_s`: within how many seconds ExaBGP tries again; None if it waits for the router.

    `foreign`: the routes that it has sent in this session, and not withdrawn, that are not learned; a route that is
    sent twice counts twice. `updated_at`: the time of the last update. `local_as`: our AS towards it, 0 until ExaBGP
    has described it. `families`: those configured for it; `negotiated`: those of this session.
    """

    address: str
    up: bool = False
    since: float = 0.0
    ended: str = ""
    failing: str = ""
    retry_s: int | None = None
    eor: bool = False
    updated_at: float = 0.0
    rib: Rib = field(default_factory=Rib)
    foreign: int = 0
    local_as: int = 0
    peer_as: int = 0
    local_address: str = ""
    families: frozenset[str] = frozenset()
    negotiated: frozenset[str] = frozenset()

    @property
    def described(self) -> bool:
        """Whether ExaBGP has described it: a first event may come earlier."""
        return self.local_as > 0

    @property
    def why(self) -> str:
        """Why the session is down; "" while it is up, or if no attempt has failed yet."""
        if self.ended and self.failing and self.ended != self.failing:
            return f"{self.ended}; now: {self.failing}"
        return self.ended or self.failing


@dataclass
class _Listing:
    """The answer to `show adj-rib in` while it arrives."""

    unlisted: dict[str, set[str]]
    """By neighbor whose session has stayed up since then: the prefixes that neither the list nor an update named."""
    updated: set[tuple[str, str]] = field(default_factory=set)
    """Neighbor and prefix of updates that came meanwhile: the list is out of date for these."""


class AdjRibIn:
    """The Adj-RIBs-In of all neighbors.

    `revision` grows with each change, `descriptions` with each of what ExaBGP's own list says about neighbors.
    """

    def __init__(self, learned: Iterable[Network] = ANY) -> None:
        """`learned`: the prefixes inside which host routes are learned."""
        self.revision = self.descriptions = 0
        self._learned = tuple(learned)
        self._learned_changed = False
        self._neighbors: dict[str, NeighborRib] = {}
        self._listing: _Listing | None = None

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
        limits = f"more than {MAX_ROUTES} routes, or {MAX_BYTES >> 20} MB of them"
        found += [
            f"neighbor {n.address} sends {limits}: some are ignored; filter there, so that it sends identities only"
            for n in self.neighbors
            if n.rib.overflow
        ]
        return found

    @property
    def wants_relearning(self) -> bool:
        """Whether routes were ignored for which there is room again, or that are learned now."""
        return self._learned_changed or any(n.rib.overflow and n.rib.has_room for n in self._neighbors.values())

    def set_learned(self, networks: Iterable[Network]) -> None:
        """Replace the prefixes inside which host routes are learned: the routes are listed again."""
        learned = tuple(networks)
        self._learned_changed |= learned != self._learned
        self._learned = learned

    def set_neighbors(self, statuses: Iterable[messages.NeighborStatus], now: float) -> None:
        """Replace the neighbors by ExaBGP's own list; a neighbor that is missing in it was removed."""
        by_address = {status.address: status for status in statuses}
        for address in self._neighbors.keys() - by_address.keys():
            del self._neighbors[address]
            self.revision, self.descriptions = self.revision + 1, self.descriptions + 1
        for address, status in by_address.items():
            neighbor = self._neighbors.get(address)
            if neighbor is None or neighbor.up != status.up:
                since = now - status.uptime_s if status.up else now
                neighbor = NeighborRib(address, status.up, since, updated_at=since)
            described = replace(
                neighbor,
                local_as=status.local_as,
                peer_as=status.peer_as,
                local_address=status.local_address,
                families=status.families,
                negotiated=status.negotiated,
            )
            if self._neighbors.get(address) != described:
                self._neighbors[address] = described
                self.revision, self.descriptions = self.revision + 1, self.descriptions + 1

    def change_session(self, address: str, up: bool, now: float, reason: str = "", retry_s: int | None = None) -> bool:
        """Record that a session came up or went down, and drop the routes of the previous one.

        Return whether that is a change. A failed attempt is none, but its `reason` is recorded.
        """
        old = self._neighbors.get(address, NeighborRib(address))
        if self._listing is not None:
            self._listing.unlisted.pop(address, None)
        if not up and not old.up and address in self._neighbors and not old.rib.by_prefix:
            if reason == down_reason.CLOSED and "NOTIFICATION" in (old.failing or old.ended):
                reason = old.failing  # after an error BIRD closes connections for a while, without giving a reason
            if (old.failing, old.retry_s) != (reason, retry_s):
                self._neighbors[address] = replace(old, failing=reason, retry_s=retry_s)
                self.revision += 1
            return False
        # Until ExaBGP has described the session, we assume that it carries all configured families.
        new = replace(old, up=up, since=now, eor=False, updated_at=now, rib=Rib(), foreign=0, negotiated=old.families)
        new.ended, new.failing = (reason, "") if old.up else ("", reason)
        new.retry_s = retry_s
        self._neighbors[address] = new
        self.revision += 1
        return True

    def update(self, address: str, advertised: Iterable[Route], withdrawn: Iterable[str], now: float) -> None:
        """Apply an UPDATE of a neighbor."""
        neighbor = self._neighbors.setdefault(address, NeighborRib(address))
        neighbor.updated_at = now
        foreign = neighbor.foreign
        for prefix in withdrawn:
            if passes(prefix, self._learned):
                self.revision += neighbor.rib.drop(prefix)
                self._mark_updated(address, prefix)
            else:
                foreign = max(0, foreign - 1)
        for route in advertised:
            if passes(route.prefix, self._learned):
                self.revision += neighbor.rib.put(route)
                self._mark_updated(address, route.prefix)
            else:
                foreign += 1
        self.revision += foreign != neighbor.foreign
        neighbor.foreign = foreign

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
        """Start to apply ExaBGP's list of learned routes."""
        # ExaBGP still lists the routes of a neighbor that is down.
        self._listing = _Listing({n.address: set(n.rib.by_prefix) for n in self._neighbors.values() if n.up})
        self._learned_changed = False
        for neighbor in self._neighbors.values():
            neighbor.rib.overflow, neighbor.foreign = False, 0

    def add_listed(self, address: str, route: Route) -> None:
        """Apply one route of that list, unless the session has changed or the prefix was updated meanwhile."""
        listing = self._listing
        if listing is None or address not in listing.unlisted or (address, route.prefix) in listing.updated:
            return
        if not passes(route.prefix, self._learned):
            self._neighbors[address].foreign += 1
            self.revision += 1
            return
        listing.unlisted[address].discard(route.prefix)
        self.revision += self._neighbors[address].rib.put(route)

    def end_listing(self) -> None:
        """Remove the routes that the complete list does not contain."""
        listing, self._listing = self._listing or _Listing({}), None
        for address, prefixes in listing.unlisted.items():
            for prefix in prefixes:
                self.revision += self._neighbors[address].rib.drop(prefix)

    def _mark_updated(self, address: str, prefix: str) -> None:
        if self._listing is not None:
            self._listing.updated.add((address, prefix))
            self._listing.unlisted.get(address, set()).discard(prefix)
