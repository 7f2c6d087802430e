# SPDX-License-Identifier: Apache-2.0
"""The export status of each VIP and pool at each peer: what is desired, what the adj-rib-out holds, since when. Pure.

`wall` is seconds since 1970: it is for people, and outlives an agent. What is wrong with a status is alert.py's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.address import Announced
from agent.announcing.routes import prefix_of
from agent.config.schema import Config
from agent.model import Announcement
from bgp.relay.protocol import Peer, Snapshot
from bgp.route import Route

ANNOUNCED, WITHDRAWN = "announced", "withdrawn"
YES, NO, DIFFERENT, NOT_NEGOTIATED, UNKNOWN = "yes", "no", "different", "not negotiated", "unknown"
"""What an adj-rib-out holds of a VIP. `different`: a route whose attributes are not the desired ones (yet). `not
negotiated`: a route that is not sent, for the session's two ends did not both offer its address family."""


@dataclass(frozen=True, slots=True)
class ExportStatus:
    """One VIP, or pool, at one peer.

    `desired` is `announced`, `withdrawn`, or the method of a drain: prepend, med, gshut.
    """

    vip: str
    peer: str
    desired: str
    out: str
    session: str
    """up, down, or unknown while the relay is away or ExaBGP does not answer."""
    why: str

    @property
    def as_desired(self) -> bool:
        """Whether ExaBGP's adj-rib-out holds what is desired."""
        return self.out == (NO if self.desired == WITHDRAWN else YES)

    def same_state(self, other: ExportStatus | None) -> bool:
        """Whether nothing but the reason differs."""
        return other is not None and (self.desired, self.out, self.session) == (other.desired, other.out, other.session)


@dataclass(frozen=True, slots=True)
class StatusEntry:
    """An export status, and since when its state has been the same."""

    status: ExportStatus
    since: float

    def to_json(self) -> dict[str, Any]:
        """Return the entry as the control socket reports it and as it is saved."""
        s = self.status
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
        fields = [str(value[key]) for key in ("vip", "peer", "desired", "out", "session", "why")]
        return StatusEntry(ExportStatus(*fields), float(value["since"]))


class ExportHistory:
    """The latest export status of each VIP at each peer, and since when. It begins with an earlier agent's entries."""

    def __init__(self, entries: Iterable[StatusEntry] = ()) -> None:
        self._entries = {(entry.status.vip, entry.status.peer): entry for entry in entries}

    @property
    def entries(self) -> tuple[StatusEntry, ...]:
        """All entries, by VIP and peer in the order of the configuration."""
        return tuple(self._entries.values())

    def observe(self, statuses: Iterable[ExportStatus], wall: float) -> list[StatusEntry]:
        """Record the statuses and return the entries that changed. What is missing from `statuses` is forgotten."""
        entries, changed = {}, []
        for status in statuses:
            key = (status.vip, status.peer)
            before = self._entries.get(key)
            unchanged = before is not None and status.same_state(before.status)
            entries[key] = StatusEntry(status, before.since if before is not None and unchanged else wall)
            if before is None or before.status != status:
                changed.append(entries[key])
        self._entries = entries
        return changed


def export_statuses(
    config: Config,
    announcements: Mapping[Announced, Announcement],
    desired: Mapping[str, Route],
    snapshot: Snapshot | None,
) -> list[ExportStatus]:
    """Return the export status of each VIP and pool at each configured peer that carries its address family.

    `desired` are the routes that the relay has been given, by prefix; `snapshot` is None while the relay is away.
    While ExaBGP does not answer, nothing in it is known to hold.
    """
    if snapshot is not None and snapshot.silent:
        snapshot = None
    known = {peer.address: peer for peer in snapshot.peers} if snapshot else {}
    sent = {address: _Sent.to(peer) for address, peer in known.items()}
    found = []
    for vip, announcement in announcements.items():
        prefix = prefix_of(vip)
        route = desired.get(prefix) if announcement.wanted else None
        goal = WITHDRAWN if route is None else announcement.method or ANNOUNCED
        for configured in config.bgp.peers:
            if f"ipv{vip.version}" not in configured.carries:
                continue
            out, session = UNKNOWN, UNKNOWN
            if snapshot is not None:
                peer = known.get(configured.name)
                own_as = configured.local_as or config.bgp.local_as
                expected = (
                    route.for_neighbor(own_as, configured.asn, peer.local_address if peer else "") if route else None
                )
                out = _adj_rib_out(sent.get(configured.name), prefix, expected)
                session = "up" if peer and peer.up else "down"
            found.append(ExportStatus(str(vip), configured.name, str(goal), out, session, announcement.why))
    return found


@dataclass(frozen=True, slots=True)
class _Sent:
    """What the adj-rib-out for a peer holds, by prefix, and which of these are on the wire."""

    held: Mapping[str, Route]
    up: bool
    advertised: frozenset[str]

    @staticmethod
    def to(peer: Peer) -> _Sent:
        return _Sent({route.prefix: route for route in peer.adj_rib_out}, peer.up, peer.advertised)


def _adj_rib_out(sent: _Sent | None, prefix: str, expected: Route | None) -> str:
    held = sent.held.get(prefix) if sent else None
    if sent is None or held is None:
        return NO
    if sent.up and prefix not in sent.advertised:
        return NOT_NEGOTIATED
    return YES if expected is None or held == expected else DIFFERENT
