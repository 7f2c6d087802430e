# SPDX-License-Identifier: Apache-2.0
"""What this node believes of all members: the view. Pure; `now` is CLOCK_MONOTONIC seconds.

Owns what follows from the words of the peers (peer_table.py) and from their absence. The rules:

1. The first table waits for an End-of-RIB of any peer, or for `HEARING_TIMEOUT_S`.
2. A withdrawn identity is `lost`, not gone: never place 0, but kept in the chain for `LOST_KEPT_S`, because a session
   reset or an upgrade of ExaBGP leaves the member's connections alive.
3. Only an explicit `left` removes a member at once.
4. When more than a third of the nodes vanish within `MASS_WINDOW_S` the fault is likely the router's: they keep their
   place for `PROBE_WAIT_S` while each is asked directly, and for as long as they answer. An answer counts only under
   the version that the view holds: a member that says something else by now may no longer want new flows.
5. So is a member asked of whom only a router that is away ever told, once another one had `REFRESH_S` to tell of it.
6. A member that comes and goes is damped (flap_damping.py): `lost` while it is present.
7. What an earlier run of this agent believed stands until the peers had `REFRESH_S` to speak.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from agent.membership.flap_damping import Damping
from agent.membership.peer_table import REFRESH_S, Advertisement, PeerReport, PeerTable
from agent.model import Member, State

LOST_KEPT_S = 600.0
HEARING_TIMEOUT_S = 5.0
"""Below the relay's dead-man, so that a restarted agent speaks up in time even when every router is away."""
MASS_WINDOW_S = 5.0
PROBE_WAIT_S = 1.5
PROBE_EVERY_S = 0.5
"""While a member's place hangs on its answers: three of them may be missed."""
PROBE_LOST_EVERY_S = 5.0
"""Those that did not answer are asked on, for they may have been busy."""

_WITHDRAWN = "its identity was withdrawn"
_ASKED = "no router tells of it any more; it is being asked"
_ANSWERS = "no router tells of it any more, but it answers"
_CHANGED = "no router tells of it any more, and it says something else by now"
_SILENT = "no router tells of it any more, and it does not answer"


@dataclass(slots=True)
class _Inquiry:
    """A member that no router tells of, and that is asked directly."""

    until: float
    """It keeps its place until then; each answer moves this on."""
    asked_at: float = float("-inf")


class View:
    """The members as seen through all peers. Feed it with `observe`, read `members`."""

    def __init__(self, remembered: Iterable[Member] = ()) -> None:
        """`remembered` is a view saved by an earlier run of this agent."""
        self._hearing = PeerTable()
        self._damping = Damping()
        self._members: dict[IPv4Address, Member] = {member.address: member for member in remembered}
        self._remembered = set(self._members)
        self._began: float | None = None
        self._complete = False
        self._vanished: dict[IPv4Address, float] = {}
        """When those went that went within `MASS_WINDOW_S` and are not back."""
        self._inquiries: dict[IPv4Address, _Inquiry] = {}
        self._damped: set[IPv4Address] = set()
        self._shown: set[IPv4Address] = set()
        """Of whom some peer told last."""

    def observe(self, reports: Mapping[str, PeerReport], now: float) -> None:
        """Take in what every configured peer tells."""
        if self._began is None:
            self._began = now
        self._complete |= any(report.up and report.eor for report in reports.values())
        self._hearing.observe(reports, now)
        self.advance(now)

    def advance(self, now: float) -> None:
        """Let time pass: what stayed unknown, lost or unanswered for too long goes."""
        shown = self._hearing.shown(now)
        doubtful = self._hearing.doubtful(now)
        shown = {address: told for address, told in shown.items() if address not in doubtful}
        damped = self._damping.damped(now, self._members.keys() | shown.keys())
        for address, told in shown.items():
            before = self._members.get(address)
            member = self._present(told, damped.get(address), now)
            change = _difference(before, member) if before else ""
            if change:
                member = replace(member, changed=now, change=change)
            elif before is not None:
                member = replace(member, changed=before.changed, change=before.change)
            self._members[address] = member
            self._vanished.pop(address, None)
            self._inquiries.pop(address, None)
        self._damped = damped.keys() & shown.keys()
        self._remembered -= shown.keys()
        if self._began is not None and now >= self._began + REFRESH_S:
            self._remembered.clear()
        gone, self._shown = self._shown - shown.keys(), set(shown)
        for address in gone & doubtful:
            self._inquiries.setdefault(address, _Inquiry(now + PROBE_WAIT_S))
        self._absent(self._members.keys() - shown.keys() - self._remembered, gone, now)

    def _present(self, told: Advertisement, damped_for_s: float | None, now: float) -> Member:
        """A member that some peer tells of."""
        before = self._members.get(told.address)
        if damped_for_s is not None and not _has_left(told):
            since = before.since if told.address in self._damped and before else now
            why = f"its identity comes and goes; damped for about {max(10, round(damped_for_s, -1)):.0f} s more"
            return Member(
                told.address, told.epoch, told.shares, True, since, why, told.address6, told.version, told.epochs
            )
        since, why = now, "its identity was heard"
        if before is not None and not before.lost:
            since, why = before.since, before.why
        if told.address in self._damped:
            why = "its identity has come to rest"
        elif before is not None and (before.lost or told.address in self._inquiries):
            why = "its identity came back"
        return Member(
            told.address, told.epoch, told.shares, False, since, why, told.address6, told.version, told.epochs
        )

    def _absent(self, addresses: Collection[IPv4Address], gone: Collection[IPv4Address], now: float) -> None:
        """Decide on those that no peer tells of; `gone` are those among them of whom one did a moment ago."""
        for address in addresses:
            member = self._members[address]
            forgotten = member.lost and address not in gone and now - member.since >= LOST_KEPT_S
            if forgotten or _has_left(member):
                del self._members[address]
                self._inquiries.pop(address, None)
        left = sorted(self._members.keys() & addresses)
        fresh = [a for a in left if a in gone or not (self._members[a].lost or a in self._inquiries)]
        self._vanished = {a: at for a, at in self._vanished.items() if a in left and now - at < MASS_WINDOW_S}
        self._vanished |= dict.fromkeys(fresh, now)
        if fresh and self._is_mass():
            for address in self._vanished:
                self._inquiries.setdefault(address, _Inquiry(now + PROBE_WAIT_S))
        for address in fresh:
            if address not in self._inquiries:
                self._damping.charge(address, now)
                self._lose(address, _WITHDRAWN, now)
            elif not self._members[address].lost:
                self._members[address] = replace(self._members[address], why=_ASKED, changed=now, change=_ASKED)
        for address, inquiry in self._inquiries.items():
            if now >= inquiry.until and not self._members[address].lost:
                self._lose(address, _SILENT, now)

    def _lose(self, address: IPv4Address, why: str, now: float) -> None:
        self._members[address] = replace(self._members[address], lost=True, since=now, why=why)

    def _is_mass(self) -> bool:
        """Whether more than a third of the nodes, this one included, vanished of late; one alone never is a mass."""
        gone = len(self._vanished)
        present = sum(
            m.state in (State.UP, State.DRAINING) for a, m in self._members.items() if a not in self._vanished
        )
        return gone > 1 and 3 * gone > present + gone + 1

    def wanted_probes(self, now: float) -> list[IPv4Address]:
        """Whom to ask directly now. Each is named once; it is named again when it is to be asked again."""
        due = []
        for address, inquiry in self._inquiries.items():
            every_s = PROBE_LOST_EVERY_S if self._members[address].lost else PROBE_EVERY_S
            if now - inquiry.asked_at >= every_s:
                inquiry.asked_at = now
                due.append(address)
        return sorted(due)

    def answered(self, address: IPv4Address, version: int, now: float) -> None:
        """Take in that a node answered a direct probe, and under which version it speaks."""
        inquiry, member = self._inquiries.get(address), self._members.get(address)
        if inquiry is None or member is None:
            return
        if version != member.version:
            if not member.lost:
                self._lose(address, _CHANGED, now)
            return
        inquiry.until = now + PROBE_WAIT_S
        if member.lost or member.why != _ANSWERS:
            since = now if member.lost else member.since
            self._members[address] = replace(
                member, lost=False, since=since, why=_ANSWERS, changed=now, change=_ANSWERS
            )

    def complete(self, now: float) -> bool:
        """Whether enough was heard for a first table: some router told all identities that it knew, or none will."""
        return self._complete or (self._began is not None and now - self._began >= HEARING_TIMEOUT_S)

    @property
    def members(self) -> tuple[Member, ...]:
        """All members but this node itself, by address."""
        return tuple(self._members[address] for address in sorted(self._members))


def _difference(before: Member, after: Member) -> str:
    """How what a member says of itself has changed, in a few words; empty if it has not."""
    if before.lost != after.lost:
        return ""
    if before.state is not after.state:
        return f"it says that it is {after.state}"
    if before.why != after.why and not after.lost:
        return after.why
    if before.supports != after.supports:
        return "it supports other epochs"
    for word in ("weight", "effective", "announced"):
        was, now = (sum(getattr(share, word) for share in m.shares.values()) for m in (before, after))
        if was != now:
            what = {"weight": "nominal weight", "effective": "effective weight", "announced": "number of VIPs"}[word]
            return f"its {what} {'rose' if now > was else 'fell'}"
    return "its shares changed" if before.shares != after.shares else ""


def _has_left(said: Member | Advertisement) -> bool:
    return all(share.state is State.LEFT for share in said.shares.values())
