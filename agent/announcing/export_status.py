# SPDX-License-Identifier: Apache-2.0
"""How each VIP stands at each peer: what is desired, what its adj-rib-out holds, since when, and what is wrong. Pure.

`wall` is seconds since 1970: what it counts is for people, and outlives an agent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.address import Address
from agent.config.schema import Config
from agent.model import Announcement
from bgp.relay.protocol import Peer, Snapshot
from bgp.route import Route

ANNOUNCED, WITHDRAWN = "announced", "withdrawn"
YES, NO, OTHERWISE, UNHEARD, UNKNOWN = "yes", "no", "otherwise", "unheard", "unknown"
"""What an adj-rib-out holds of a VIP. `otherwise`: a route, but not as desired (its attributes are not there yet).
`unheard`: a route of an address family that the router did not take for this session."""
OK, WARNING, CRITICAL = "ok", "warning", "critical"


@dataclass(frozen=True, slots=True)
class ExportStatus:
    """One VIP at one peer. `desired` is `announced`, `withdrawn`, or how it is drained: prepend, med, gshut."""

    vip: str
    peer: str
    desired: str
    out: str
    session: str
    """up, down, or unknown while the relay is away."""
    why: str

    @property
    def as_desired(self) -> bool:
        """Whether ExaBGP's adj-rib-out says what is wanted."""
        return self.out == (NO if self.desired == WITHDRAWN else YES)

    def same_state(self, other: ExportStatus | None) -> bool:
        """Whether nothing has changed but the reason."""
        return other is not None and (self.desired, self.out, self.session) == (other.desired, other.out, other.session)


@dataclass(frozen=True, slots=True)
class StatusEntry:
    """A standing, and since when its state is what it is."""

    standing: ExportStatus
    since: float

    def to_json(self) -> dict[str, Any]:
        """As the control socket tells it, and as it is saved."""
        s = self.standing
        return {
            "vip": s.vip,
            "peer": s.peer,
            "desired": s.desired,
            "out": s.out,
            "session": s.session,
            "since": self.since,
            "why": s.why,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> StatusEntry:
        """Read what `to_json` wrote. Raises KeyError, TypeError or ValueError."""
        words = [str(value[key]) for key in ("vip", "peer", "desired", "out", "session", "why")]
        return StatusEntry(ExportStatus(*words), float(value["since"]))


class ExportHistory:
    """The standings as they were seen last, and since when each is what it is. It begins with what it left earlier."""

    def __init__(self, entries: Iterable[StatusEntry] = ()) -> None:
        self._entries = {(entry.standing.vip, entry.standing.peer): entry for entry in entries}

    @property
    def entries(self) -> tuple[StatusEntry, ...]:
        """All, by VIP and peer in the order of the configuration."""
        return tuple(self._entries.values())

    def observe(self, standings: Iterable[ExportStatus], wall: float) -> list[StatusEntry]:
        """Take in how things stand; return what differs from before. What is not named any more is forgotten."""
        entries, changed = {}, []
        for standing in standings:
            key = (standing.vip, standing.peer)
            before = self._entries.get(key)
            known = before is not None and standing.same_state(before.standing)
            entries[key] = StatusEntry(standing, before.since if before is not None and known else wall)
            if before is None or before.standing != standing:
                changed.append(entries[key])
        self._entries = entries
        return changed


def export_statuses(
    config: Config,
    announcements: Mapping[Address, Announcement],
    desired: Mapping[str, Route],
    snapshot: Snapshot | None,
) -> list[ExportStatus]:
    """How each VIP stands at each configured peer that carries its address family.

    `desired` are the routes that the relay was told, by prefix. `snapshot` is the relay's word, None while it is away.
    """
    known = {peer.address: peer for peer in snapshot.peers} if snapshot else {}
    found = []
    for vip, announcement in announcements.items():
        prefix = f"{vip}/{vip.max_prefixlen}"
        route = desired.get(prefix) if announcement.wanted else None
        word = WITHDRAWN if route is None else announcement.method or ANNOUNCED
        for configured in config.bgp.peers:
            if f"ipv{vip.version}" not in configured.carries:
                continue
            out, session = UNKNOWN, UNKNOWN
            if snapshot is not None:
                peer = known.get(configured.name)
                own_as = configured.local_as or config.bgp.local_as
                shall = route.towards(own_as, configured.asn, peer.end if peer else "") if route else None
                out = _out(peer, prefix, shall)
                session = "up" if peer and peer.up else "down"
            found.append(ExportStatus(str(vip), configured.name, str(word), out, session, announcement.why))
    return found


def _out(peer: Peer | None, prefix: str, shall: Route | None) -> str:
    held = next((route for route in peer.out if route.prefix == prefix), None) if peer else None
    if peer is None or held is None:
        return NO
    if peer.up and prefix not in peer.heard:
        return UNHEARD
    return YES if shall is None or held == shall else OTHERWISE


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that a monitoring system should hear of."""

    severity: str
    """`warning`, or `critical`: as far as is known no router takes traffic of the VIP to this node."""
    text: str


def alerts(
    announcements: Mapping[Address, Announcement], found: Collection[ExportStatus], relay: str | None, error: str | None
) -> list[Alert]:
    """What is wrong, the worst first; nothing when every VIP that is wanted is announced at each peer with a session.

    `relay` says why there is no word from the relay (None: there is), `error` what the relay fails at. A peer that is
    down is no fault while another is up, and what an operator took back is none.
    """
    if relay is not None:
        return [Alert(CRITICAL, f"{relay}; what the routers hear is not known; see the log of lb-bgp")]
    if not announcements:
        return [Alert(WARNING, "the agent is starting: nothing is decided yet; ask again in a few seconds")]
    result = []
    sessions = {s.peer: s.session for s in found}
    if not sessions:
        result.append(Alert(CRITICAL, "no BGP peer carries the address family of any VIP; see bgp.peers[].families"))
    elif "up" not in sessions.values():
        down = ", ".join(sessions)
        result.append(Alert(CRITICAL, f"no BGP session is up ({down}); see `lbctl status` and the log of lb-bgp"))
    for vip, announcement in announcements.items():
        if announcement.fault:
            result.append(Alert(WARNING, f"{vip} is not announced: {announcement.why}"))
        up = [s for s in found if s.vip == str(vip) and s.session == "up"]
        lacking = [s for s in up if not s.as_desired]
        nowhere = announcement.wanted and bool(up) and all(s.out in (NO, UNHEARD) for s in up)
        for s in lacking:
            result.append(Alert(CRITICAL if nowhere else WARNING, f"{s.vip} at {s.peer}: {mismatch(s)}"))
    if error is not None:
        result.append(Alert(WARNING, error))
    return sorted(result, key=lambda fault: fault.severity != CRITICAL)


def mismatch(standing: ExportStatus) -> str:
    """How an adj-rib-out differs from what is desired."""
    if standing.desired == WITHDRAWN:
        return f"to be withdrawn ({standing.why}), but still in the adj-rib-out"
    how = "" if standing.desired == ANNOUNCED else f" by {standing.desired}"
    held = {
        NO: "not in the adj-rib-out",
        UNHEARD: "the router has not taken its address family for the session: enable it there",
    }.get(standing.out, "the adj-rib-out holds another route")
    return f"to be announced{how} ({standing.why}), but {held}"
