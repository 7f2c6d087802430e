# SPDX-License-Identifier: Apache-2.0
"""The identities that all BGP peers advertise, and the best one for each node. Pure; `now` is CLOCK_MONOTONIC seconds.

Owns which advertisement is best; view.py owns what follows from it, or from its absence. The rules:

1. Loss of information is not loss of a member. While a peer is down, its last advertisements stay valid.
2. After a peer comes back, an identity that it does not advertise again is unknown for `REFRESH_S` and stays valid too:
   the peer's own sessions with the other nodes may still be coming up.
3. One peer's advertisement is enough. But when a live session withdraws an identity, or does not advertise it again in
   time, the stale advertisement of a peer that is down (or has not refreshed it yet) is dropped: otherwise a dead
   server would own rows for as long as a router is away.
4. An advertisement of a live session replaces a stale one.
5. Of several live sessions the one with the highest version is best: the others have not received it yet. When none
   advertises the higher version any more, a lower one is accepted: the node may have been reinstalled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import astuple, dataclass, field
from ipaddress import IPv4Address, IPv6Address

from agent.model import Share

REFRESH_S = 120.0


@dataclass(frozen=True, slots=True)
class Advertisement:
    """One node's identity as a peer advertises it: its shares by service id, its preferred epoch and other `epochs`."""

    address: IPv4Address
    epoch: int
    shares: Mapping[int, Share]
    address6: IPv6Address | None = None
    version: int = 0
    epochs: tuple[int, ...] = ()

    @property
    def order(self) -> tuple[int, str]:
        """The sort key: the newer of two is greater. Two contents under one version have an order too, so that all
        nodes that receive both choose the same."""
        shares = sorted((sid, astuple(share)) for sid, share in self.shares.items())
        return self.version, repr((self.epoch, self.epochs, shares, str(self.address6)))


@dataclass(frozen=True, slots=True)
class PeerReport:
    """The state of a BGP peer, and all identities that it advertises now; while it is down they mean nothing.

    `since` identifies the session by the time it came up: a reset may be over before anyone sees the peer down, and
    then only `since` shows that it has yet to advertise everything again. `eor`: its End-of-RIB has arrived.
    """

    up: bool
    advertisements: Mapping[IPv4Address, Advertisement]
    since: float = 0.0
    eor: bool = False


@dataclass(slots=True)
class _Peer:
    up: bool = False
    since: float = 0.0
    refreshed_by: float = 0.0
    """Until then an identity that this peer has not advertised again is unknown, not withdrawn."""
    advertisements: dict[IPv4Address, Advertisement] = field(default_factory=dict)
    refreshed: set[IPv4Address] = field(default_factory=set)
    """Those advertised since the session came up; the rest are stale."""
    report: PeerReport | None = None
    """The last one."""

    @property
    def has_stale(self) -> bool:
        """Whether it has advertisements that its session, if there is one, has not made."""
        return bool(self.advertisements) and not (self.up and self.advertisements.keys() <= self.refreshed)

    @property
    def live(self) -> set[IPv4Address]:
        """The nodes that it advertises now, in a session that is up."""
        return self.refreshed & self.advertisements.keys() if self.up else set()


class PeerTable:
    """The advertisements of all peers. Feed it with `observe`, read `best`."""

    def __init__(self) -> None:
        self._peers: dict[str, _Peer] = {}

    def observe(self, reports: Mapping[str, PeerReport], now: float) -> None:
        """Record the reports of all configured peers. A peer that is no longer configured is forgotten."""
        for removed in self._peers.keys() - reports.keys():
            del self._peers[removed]
        withdrawn: set[IPv4Address] = set()
        for name, report in reports.items():
            withdrawn |= _observe(self._peers.setdefault(name, _Peer()), report, now)
        self._replace_stale(withdrawn)

    def best(self, now: float) -> dict[IPv4Address, Advertisement]:
        """Drop what has not been refreshed in time; return the best advertisement of each node that has one."""
        expired: set[IPv4Address] = set()
        for peer in self._peers.values():
            if peer.up and now >= peer.refreshed_by:
                expired |= peer.advertisements.keys() - peer.refreshed
                peer.advertisements = {a: one for a, one in peer.advertisements.items() if a in peer.refreshed}
        if expired:
            self._replace_stale(expired)
        best: dict[IPv4Address, Advertisement] = {}
        for peer in self._peers.values():
            for advertisement in peer.advertisements.values():
                _put_newer(best, advertisement)
        return best

    def deadlines(self, now: float) -> list[float]:
        """Return when the stale advertisements of peers that are up expire."""
        return [peer.refreshed_by for peer in self._peers.values() if peer.up and now < peer.refreshed_by]

    def stale(self, now: float) -> set[IPv4Address]:
        """Return the nodes that only stale advertisements name, although some peer is up and had time to refresh."""
        if not any(peer.up and now >= peer.refreshed_by for peer in self._peers.values()):
            return set()
        known = {address for peer in self._peers.values() if peer.has_stale for address in peer.advertisements}
        return known - self._live().keys() if known else set()

    def _replace_stale(self, withdrawn: Collection[IPv4Address]) -> None:
        """Replace stale advertisements by live ones of the same node, and drop those that a live session withdrew."""
        if not withdrawn and not any(peer.has_stale for peer in self._peers.values()):
            return
        live = self._live()
        for peer in self._peers.values():
            own = peer.live
            peer.advertisements = {
                address: advertisement if address in own else live.get(address, advertisement)
                for address, advertisement in peer.advertisements.items()
                if address in own or address not in withdrawn
            }

    def _live(self) -> dict[IPv4Address, Advertisement]:
        """Return the best of what live sessions advertise."""
        live: dict[IPv4Address, Advertisement] = {}
        for peer in self._peers.values():
            for address in peer.live:
                _put_newer(live, peer.advertisements[address])
        return live


def _observe(peer: _Peer, report: PeerReport, now: float) -> set[IPv4Address]:
    """Record one peer's report; return the nodes that it advertised in this same session and no longer does."""
    if report is peer.report:
        return set()
    peer.report = report
    if not report.up:
        peer.up = False
        return set()
    if not peer.up or peer.since != report.since:
        peer.up, peer.since = True, report.since
        peer.refreshed_by, peer.refreshed = now + REFRESH_S, set()
    withdrawn = {a for a in peer.advertisements if a in peer.refreshed and a not in report.advertisements}
    kept = {a: one for a, one in peer.advertisements.items() if a not in withdrawn}
    peer.advertisements = kept | dict(report.advertisements)
    peer.refreshed |= report.advertisements.keys()
    return withdrawn


def _put_newer(best: dict[IPv4Address, Advertisement], new: Advertisement) -> None:
    before = best.get(new.address)
    if before is None or (before is not new and before != new and before.order < new.order):
        best[new.address] = new
