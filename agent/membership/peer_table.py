# SPDX-License-Identifier: Apache-2.0
"""What the BGP peers tell of the other nodes, put together: one word for each address. Pure; `now` is CLOCK_MONOTONIC.

Owns which word counts; what follows from a word, or from its absence, is view.py's. The rules:

1. Loss of information is not loss of a member. While a peer is down, what it last told stands.
2. After a peer is back, what it does not tell again is unknown for `REFRESH_S`, and stands too: its own sessions to
   the other nodes may still be coming up.
3. A word counts if any peer tells it. But where a live session withdraws it, or did not tell it again in time, the old
   word of a peer that is down (or has not told it again yet) no longer counts: else a dead server would own rows for as
   long as a router is away.
4. What is told in a live session counts more than an old word, and takes its place.
5. Of several live sessions the one with the highest version counts: the others have not heard it yet. When nobody tells
   the higher version any more, a lower one is taken: the node may have been reinstalled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import astuple, dataclass, field
from ipaddress import IPv4Address, IPv6Address

from agent.model import Share

REFRESH_S = 120.0


@dataclass(frozen=True, slots=True)
class Advertisement:
    """One identity as a peer tells it."""

    address: IPv4Address
    epoch: int
    shares: Mapping[int, Share]
    address6: IPv6Address | None = None
    version: int = 0
    epochs: tuple[int, ...] = ()

    @property
    def order(self) -> tuple[int, str]:
        """Which of two is the newer. Two contents under one version have an order all the same, so that all nodes
        that hear both choose alike."""
        shares = sorted((sid, astuple(share)) for sid, share in self.shares.items())
        return self.version, repr((self.epoch, self.epochs, shares, str(self.address6)))


@dataclass(frozen=True, slots=True)
class PeerReport:
    """A BGP peer's state and all identities that it tells now; when it is down, `advertisements` means nothing.

    `since` names the session (when it came up): a reset may be over before anyone saw it down, and then only this
    tells that the peer has yet to tell everything again. `eor`: it has told all that it had when the session came up.
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
    """Until then, what this peer does not tell again is unknown, not withdrawn."""
    standing: dict[IPv4Address, Advertisement] = field(default_factory=dict)
    confirmed: set[IPv4Address] = field(default_factory=set)
    """Those told since the session came up."""

    @property
    def live(self) -> set[IPv4Address]:
        """Of whom it tells now, in a session that is up."""
        return self.confirmed & self.standing.keys() if self.up else set()


class PeerTable:
    """All peers. Feed it with `observe`, read `shown`."""

    def __init__(self) -> None:
        self._peers: dict[str, _Peer] = {}

    def observe(self, reports: Mapping[str, PeerReport], now: float) -> None:
        """Take in what every configured peer tells. A peer that is no longer configured is forgotten."""
        for gone in self._peers.keys() - reports.keys():
            del self._peers[gone]
        withdrawn: set[IPv4Address] = set()
        for name, report in reports.items():
            withdrawn |= _observe(self._peers.setdefault(name, _Peer()), report, now)
        self._correct(withdrawn)

    def shown(self, now: float) -> dict[IPv4Address, Advertisement]:
        """The word that counts, for each address of which there is one."""
        expired: set[IPv4Address] = set()
        for peer in self._peers.values():
            if peer.up and now >= peer.refreshed_by:
                expired |= peer.standing.keys() - peer.confirmed
                peer.standing = {a: told for a, told in peer.standing.items() if a in peer.confirmed}
        if expired:
            self._correct(expired)
        shown: dict[IPv4Address, Advertisement] = {}
        for peer in self._peers.values():
            for told in peer.standing.values():
                _put_newer(shown, told)
        return shown

    def doubtful(self, now: float) -> set[IPv4Address]:
        """Of whom only old words are left, though some peer is up and had its time to tell of them."""
        if not any(peer.up and now >= peer.refreshed_by for peer in self._peers.values()):
            return set()
        old = {address for peer in self._peers.values() for address in peer.standing}
        return old - self._live().keys()

    def _correct(self, withdrawn: Collection[IPv4Address]) -> None:
        """Have old words give way: to what live sessions tell of the same node, and to their telling no longer."""
        live = self._live()
        for peer in self._peers.values():
            alive = peer.live
            peer.standing = {
                a: told if a in alive else live.get(a, told)
                for a, told in peer.standing.items()
                if a in alive or a not in withdrawn
            }

    def _live(self) -> dict[IPv4Address, Advertisement]:
        """What live sessions tell."""
        live: dict[IPv4Address, Advertisement] = {}
        for peer in self._peers.values():
            for address in peer.live:
                _put_newer(live, peer.standing[address])
        return live


def _observe(peer: _Peer, report: PeerReport, now: float) -> set[IPv4Address]:
    """Take in one peer's word; return of whom it told in this very session and tells no longer."""
    if not report.up:
        peer.up = False
        return set()
    if not peer.up or peer.since != report.since:
        peer.up, peer.since = True, report.since
        peer.refreshed_by, peer.confirmed = now + REFRESH_S, set()
    withdrawn = {a for a in peer.standing if a in peer.confirmed and a not in report.advertisements}
    peer.standing = {a: told for a, told in peer.standing.items() if a not in withdrawn} | dict(report.advertisements)
    peer.confirmed |= report.advertisements.keys()
    return withdrawn


def _put_newer(words: dict[IPv4Address, Advertisement], told: Advertisement) -> None:
    before = words.get(told.address)
    if before is None or (before is not told and before != told and before.order < told.order):
        words[told.address] = told
