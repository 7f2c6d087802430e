# SPDX-License-Identifier: Apache-2.0
"""What this node believes of all members: the view. Pure; `now` is CLOCK_MONOTONIC seconds.

The rules, in order of what they protect:

1. Loss of information is not loss of a member. While a BGP peer is down, what it last told stands.
2. After a peer is back, what it does not tell again is unknown for `REFRESH_S`, and stands too: its own sessions to the
   other nodes may still be coming up.
3. A member is present if any peer shows it. But where a live session withdraws it, the old word of a peer that is down
   (or has not told it again yet) no longer counts: else a dead server would own rows for as long as a router is away.
4. A withdrawn identity is `lost`, not gone: never place 0, but kept in the chain for `LOST_KEPT_S`, because a session
   reset or an upgrade of ExaBGP leaves the member's connections alive.
5. Only an explicit `left` removes a member at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address

from agent.model import Member, Share, State

REFRESH_S = 120.0
LOST_KEPT_S = 600.0


@dataclass(frozen=True, slots=True)
class Told:
    """One identity as a peer tells it."""

    address: IPv4Address
    epoch: int
    shares: Mapping[int, Share]
    address6: IPv6Address | None = None
    version: int = 0


@dataclass(frozen=True, slots=True)
class PeerReport:
    """A BGP peer's state and all identities that it tells now; when it is down, `told` says nothing.

    `since` names the session (when it came up): a reset may be over before anyone saw it down, and then only this
    tells that the peer has yet to tell everything again.
    """

    up: bool
    told: Mapping[IPv4Address, Told]
    since: float = 0.0


@dataclass(slots=True)
class _Peer:
    up: bool = False
    since: float = 0.0
    refreshed_by: float = 0.0
    """Until then, what this peer does not tell again is unknown, not withdrawn."""
    standing: dict[IPv4Address, Told] = field(default_factory=dict)
    confirmed: set[IPv4Address] = field(default_factory=set)
    """Those told since the session came up."""


class View:
    """The members as seen through all peers. Feed it with `observe`, read `members`."""

    def __init__(self, remembered: Iterable[Member] = ()) -> None:
        """`remembered` is a view saved by an earlier run of this agent: it stands until the peers have spoken."""
        self._peers: dict[str, _Peer] = {}
        self._members: dict[IPv4Address, Member] = {member.address: member for member in remembered}
        self._remembered = set(self._members)
        self._remembered_until: float | None = None

    def observe(self, reports: Mapping[str, PeerReport], now: float) -> None:
        """Take in what every configured peer tells. A peer that is no longer configured is forgotten."""
        if self._remembered_until is None:
            self._remembered_until = now + REFRESH_S
        for gone in self._peers.keys() - reports.keys():
            del self._peers[gone]
        withdrawn: set[IPv4Address] = set()
        for name, report in reports.items():
            withdrawn |= self._observe_peer(self._peers.setdefault(name, _Peer()), report, now)
        for peer in self._peers.values():
            live = peer.confirmed if peer.up else set()
            peer.standing = {a: told for a, told in peer.standing.items() if a in live or a not in withdrawn}
        self.advance(now)

    @staticmethod
    def _observe_peer(peer: _Peer, report: PeerReport, now: float) -> set[IPv4Address]:
        """Take in one peer's word; return what it told in this very session and tells no longer."""
        if not report.up:
            peer.up = False
            return set()
        if not peer.up or peer.since != report.since:
            peer.up, peer.since = True, report.since
            peer.refreshed_by, peer.confirmed = now + REFRESH_S, set()
        withdrawn = {a for a in peer.standing if a in peer.confirmed and a not in report.told}
        peer.standing = {a: told for a, told in peer.standing.items() if a not in withdrawn} | dict(report.told)
        peer.confirmed |= report.told.keys()
        return withdrawn

    def advance(self, now: float) -> None:
        """Let time pass: what stayed unknown or lost for too long goes."""
        shown: dict[IPv4Address, Told] = {}
        for peer in self._peers.values():
            if peer.up and now >= peer.refreshed_by:
                peer.standing = {a: told for a, told in peer.standing.items() if a in peer.confirmed}
            # A peer that is up and has told it in this session knows better than one whose word is old.
            for address, told in peer.standing.items():
                if address not in shown or (peer.up and address in peer.confirmed):
                    shown[address] = told
        for address, told in shown.items():
            self._members[address] = _present(self._members.get(address), told, now)
        self._remembered -= shown.keys()
        for address in self._members.keys() - shown.keys():
            self._absent(self._members[address], now)

    def _absent(self, member: Member, now: float) -> None:
        if member.lost:
            if now - member.since >= LOST_KEPT_S:
                del self._members[member.address]
        elif member.address in self._remembered and now < (self._remembered_until or 0.0):
            return
        elif all(share.state is State.LEFT for share in member.shares.values()):
            del self._members[member.address]
        else:
            self._members[member.address] = replace(member, lost=True, since=now, why="its identity was withdrawn")

    @property
    def members(self) -> tuple[Member, ...]:
        """All members but this node itself, by address."""
        return tuple(self._members[address] for address in sorted(self._members))


def _present(before: Member | None, told: Told, now: float) -> Member:
    since, why = now, "its identity was heard" if before is None else "its identity came back"
    if before is not None and not before.lost:
        since, why = before.since, before.why
    return Member(told.address, told.epoch, told.shares, False, since, why, told.address6, told.version)
