# SPDX-License-Identifier: Apache-2.0
"""What this node believes of all other nodes: the view. Pure; `now` is CLOCK_MONOTONIC seconds.

Owns what follows from the peers' advertisements (peer_table.py) and from their absence. The rules:

1. The first table waits for an End-of-RIB of any peer, for `END_OF_RIB_TIMEOUT_S` at most.
2. A member whose identity is withdrawn is `lost`, not gone: never at place 0, but kept in the chain for `LOST_KEPT_S`,
   because a session reset or an upgrade of ExaBGP leaves the member's connections alive.
3. Only an explicit `left` removes a member at once.
4. When more than a third of the nodes vanish within `MASS_LOSS_WINDOW_S` the fault is likely the router's: they keep
   their place for `REPLY_WAIT_S` while each is probed directly, and for as long as they reply. A reply counts only
   under the version in the view: a member whose identity has changed may no longer want new flows.
5. A member known only from a disconnected router is probed too, once another router had `REFRESH_S` to advertise it.
6. A member that flaps is damped (flap_damping.py): `lost` while it is present.
7. The members that an earlier run of this agent saved stay until the peers had `REFRESH_S` to advertise them.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from agent.membership.flap_damping import FlapDamping
from agent.membership.peer_table import REFRESH_S, Advertisement, PeerReport, PeerTable
from agent.model import Member, State

LOST_KEPT_S = 600.0
END_OF_RIB_TIMEOUT_S = 5.0
"""Less than the relay's dead-man, so that a restarted agent announces in time even when every router is down."""
MASS_LOSS_WINDOW_S = 5.0
REPLY_WAIT_S = 1.5
PROBE_EVERY_S = 0.5
"""While a member's place depends on its replies: three of them may be missed."""
PROBE_LOST_EVERY_S = 5.0
"""A member that did not reply is probed on, more rarely: it may only have been busy."""

_RECEIVED = "identity received"
_RETURNED = "identity received again"
_STABLE = "identity is stable again"
_WITHDRAWN = "identity withdrawn"
_PROBED = "no router advertises it; probing it directly"
_REPLIES = "no router advertises it, but it replies to probes"
_CHANGED = "no router advertises it, and its identity has changed"
_SILENT = "no router advertises it, and it does not reply to probes"


@dataclass(slots=True)
class _Probe:
    """The probing of a member that no router advertises."""

    until: float
    """The member keeps its place until then; each reply extends it."""
    sent_at: float = float("-inf")


class View:
    """The other nodes as seen through all peers. Feed it with `observe` and `receive_reply`, read `members`."""

    def __init__(self, saved: Iterable[Member] = ()) -> None:
        """`saved` are the members that an earlier run of this agent saved."""
        self._peer_table = PeerTable()
        self._damping = FlapDamping()
        self._members: dict[IPv4Address, Member] = {member.address: member for member in saved}
        self._unconfirmed = set(self._members)
        """Saved members that no peer has advertised since."""
        self._started_at: float | None = None
        self._end_of_rib = False
        self._vanished: dict[IPv4Address, float] = {}
        """When each member vanished that did so within `MASS_LOSS_WINDOW_S` and is not back."""
        self._probes: dict[IPv4Address, _Probe] = {}
        self._damped: set[IPv4Address] = set()
        self._reports: Mapping[str, PeerReport] | None = None
        self._next_at = float("-inf")
        self._applied: dict[IPv4Address, Advertisement] = {}
        """The advertisement of which each member was made last."""
        self._sorted: tuple[Member, ...] | None = None
        """The members by address; None if one may have changed since."""
        self._before: tuple[Member, ...] = ()
        self._advertised: set[IPv4Address] = set()
        """The members that some peer advertised last time."""

    def observe(self, reports: Mapping[str, PeerReport], now: float) -> None:
        """Record the reports of all configured peers."""
        if self._started_at is None:
            self._started_at = now
        if reports is self._reports and now < self._next_at:
            return
        self._reports = reports
        self._end_of_rib |= any(report.up and report.eor for report in reports.values())
        self._peer_table.observe(reports, now)
        self.advance(now)

    def advance(self, now: float) -> None:
        """Apply the passing of time: what stays unknown, lost or without a reply for too long expires."""
        self._sorted = None
        best = self._peer_table.best(now)
        stale = self._peer_table.stale(now)
        best = {address: advertisement for address, advertisement in best.items() if address not in stale}
        damped = self._damping.damped(now, self._members.keys() | best.keys())
        for address, advertisement in best.items():
            before = self._members.get(address)
            if self._is_settled(address, advertisement, damped):
                continue
            member = self._advertised_member(advertisement, damped.get(address), now)
            change = _difference(before, member) if before else ""
            if change:
                member = replace(member, changed=now, change=change)
            elif before is not None:
                member = replace(member, changed=before.changed, change=before.change)
            self._members[address] = member
            self._applied[address] = advertisement
            self._vanished.pop(address, None)
            self._probes.pop(address, None)
        self._damped = damped.keys() & best.keys()
        self._unconfirmed -= best.keys()
        if self._started_at is not None and now >= self._started_at + REFRESH_S:
            self._unconfirmed.clear()
        gone, self._advertised = self._advertised - best.keys(), set(best)
        for address in gone & stale:
            self._probes.setdefault(address, _Probe(now + REPLY_WAIT_S))
        self._update_absent(self._members.keys() - best.keys() - self._unconfirmed, gone, now)
        self._next_at = self._next_change(now)

    def _next_change(self, now: float) -> float:
        """Return when time alone may change the view next; until then only another report or a reply does."""
        if self._damped or self._probes or self._damping.active:
            return now
        due = [at + MASS_LOSS_WINDOW_S for at in self._vanished.values()]
        due += [member.since + LOST_KEPT_S for member in self._members.values() if member.lost]
        due += self._peer_table.deadlines(now)
        if self._unconfirmed and self._started_at is not None:
            due.append(self._started_at + REFRESH_S)
        return min(due, default=float("inf"))

    def _is_settled(self, address: IPv4Address, advertisement: Advertisement, damped: Container[IPv4Address]) -> bool:
        """Whether a member is up by this very advertisement, and nothing else concerns it: then it stays as it is. Of
        1,000 members this is true of all but the few that change."""
        member = self._members.get(address)
        return (
            member is not None
            and not member.lost
            and self._applied.get(address) is advertisement
            and not (address in damped or address in self._damped)
            and not (address in self._probes or address in self._vanished)
        )

    def _advertised_member(self, advertisement: Advertisement, damped_for_s: float | None, now: float) -> Member:
        """Return the member that some peer advertises."""
        address = advertisement.address
        before = self._members.get(address)
        if _has_left(advertisement):
            damped_for_s = None
        if damped_for_s is not None:
            since = before.since if address in self._damped and before else now
            why = f"identity flaps; damped for about {max(10, round(damped_for_s, -1)):.0f} s more"
        else:
            since, why = now, _RECEIVED
            if before is not None and not before.lost:
                since, why = before.since, before.why
            if address in self._damped:
                why = _STABLE
            elif before is not None and (before.lost or address in self._probes):
                why = _RETURNED
        a = advertisement
        lost = damped_for_s is not None
        return Member(address, a.epoch, a.shares, lost, since, why, a.address6, a.version, a.epochs)

    def _update_absent(self, absent: Collection[IPv4Address], gone: Collection[IPv4Address], now: float) -> None:
        """Update the members that no peer advertises; those in `gone` were advertised until now."""
        for address in absent:
            member = self._members[address]
            expired = member.lost and address not in gone and now - member.since >= LOST_KEPT_S
            if expired or _has_left(member):
                del self._members[address]
                self._applied.pop(address, None)
                self._probes.pop(address, None)
        kept = sorted(self._members.keys() & absent)
        fresh = [a for a in kept if a in gone or not (self._members[a].lost or a in self._probes)]
        self._vanished = {a: at for a, at in self._vanished.items() if a in kept and now - at < MASS_LOSS_WINDOW_S}
        self._vanished |= dict.fromkeys(fresh, now)
        if fresh and self._is_mass_loss():
            for address in self._vanished:
                self._probes.setdefault(address, _Probe(now + REPLY_WAIT_S))
        for address in fresh:
            if address not in self._probes:
                self._damping.add_penalty(address, now)
                self._set_lost(address, _WITHDRAWN, now)
            elif not self._members[address].lost:
                self._members[address] = replace(self._members[address], why=_PROBED, changed=now, change=_PROBED)
        for address, probe in self._probes.items():
            if now >= probe.until and not self._members[address].lost:
                self._set_lost(address, _SILENT, now)

    def _set_lost(self, address: IPv4Address, why: str, now: float) -> None:
        self._members[address] = replace(self._members[address], lost=True, since=now, why=why)

    def _is_mass_loss(self) -> bool:
        """Whether more than a third of the nodes, this one included, vanished recently; a single one is no mass."""
        gone = len(self._vanished)
        present = sum(
            m.state in (State.UP, State.DRAINING) for a, m in self._members.items() if a not in self._vanished
        )
        return gone > 1 and 3 * gone > present + gone + 1

    def take_due_probes(self, now: float) -> list[IPv4Address]:
        """Return the members to probe now, and count them as probed: each is returned again when it is due again."""
        due = []
        for address, probe in self._probes.items():
            every_s = PROBE_LOST_EVERY_S if self._members[address].lost else PROBE_EVERY_S
            if now - probe.sent_at >= every_s:
                probe.sent_at = now
                due.append(address)
        return sorted(due)

    def receive_reply(self, address: IPv4Address, version: int, now: float) -> None:
        """Record a node's reply to a direct probe; `version` is its identity's."""
        self._next_at, self._sorted = float("-inf"), None
        probe, member = self._probes.get(address), self._members.get(address)
        if probe is None or member is None:
            return
        if version != member.version:
            if not member.lost:
                self._set_lost(address, _CHANGED, now)
            return
        probe.until = now + REPLY_WAIT_S
        if member.lost or member.why != _REPLIES:
            since = now if member.lost else member.since
            self._members[address] = replace(
                member, lost=False, since=since, why=_REPLIES, changed=now, change=_REPLIES
            )

    def is_complete(self, now: float) -> bool:
        """Whether the view is good for a first table: some router sent all that it had, or the time is over."""
        timed_out = self._started_at is not None and now - self._started_at >= END_OF_RIB_TIMEOUT_S
        return self._end_of_rib or timed_out

    @property
    def members(self) -> tuple[Member, ...]:
        """All members but this node itself, by address; the same object as long as none changes."""
        if self._sorted is None:
            found = tuple(self._members[address] for address in sorted(self._members, key=int))
            self._sorted = self._before = found if found != self._before else self._before
        return self._sorted


def _difference(before: Member, after: Member) -> str:
    """Return how a member's identity has changed, in a few words; empty if it has not, or if it became lost or up."""
    if before.lost != after.lost:
        return ""
    if before.state is not after.state:
        return f"its state changed to {after.state}"
    if before.why != after.why and not after.lost:
        return after.why
    if before.supports != after.supports:
        return "it supports other epochs"
    for attribute, text in (
        ("weight", "nominal weight"),
        ("effective", "effective weight"),
        ("announced", "number of VIPs"),
    ):
        was, now = (sum(getattr(share, attribute) for share in m.shares.values()) for m in (before, after))
        if was != now:
            return f"its {text} {'increased' if now > was else 'decreased'}"
    return "its shares changed" if before.shares != after.shares else ""


def _has_left(identity: Member | Advertisement) -> bool:
    return all(share.state is State.LEFT for share in identity.shares.values())
