# SPDX-License-Identifier: Apache-2.0
"""What is wrong with this node's announcements, for `lbctl announce check` and a monitoring system. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from agent.address import Announced
from agent.announcing.export_status import ANNOUNCED, NO, NOT_NEGOTIATED, WITHDRAWN, ExportStatus
from agent.model import Announcement

WARNING, CRITICAL = "warning", "critical"


@dataclass(frozen=True, slots=True)
class Alert:
    """A problem that a monitoring system reports."""

    severity: str
    """`warning`, or `critical`: as far as this node knows, no router sends it traffic of the VIP."""
    text: str


def alerts(
    announcements: Mapping[Announced, Announcement],
    statuses: Collection[ExportStatus],
    relay: str | None,
    error: str | None,
    down: Sequence[str] = (),
    problems: Sequence[str] = (),
) -> list[Alert]:
    """Return the problems, critical ones first; none when every wanted VIP and pool is announced at each peer with a
    session.

    `relay` is why there is no snapshot of the relay that holds (None: there is one), `error` what the relay fails at,
    `down` why sessions are down, a text for each; `problems` what keeps packets of VIPs from clients, though all is
    announced. A peer that is down is no problem while another is up; nor is a VIP that the operator withdrew.
    """
    if relay is not None:
        return [Alert(CRITICAL, f"{relay}; what the routers receive is not known; see the log of lb-bgp")]
    if not announcements:
        return [Alert(WARNING, "the agent is starting and has not decided anything yet; ask again in a few seconds")]
    result = []
    sessions = {s.peer: s.session for s in statuses}
    if not sessions:
        result.append(Alert(CRITICAL, "no BGP peer carries the address family of any VIP; see bgp.peers[].families"))
    elif "up" not in sessions.values():
        why = "; ".join(down) or ", ".join(sessions)
        result.append(Alert(CRITICAL, f"no BGP session is up ({why}); see `lbctl status` and the log of lb-bgp"))
    for vip, announcement in announcements.items():
        if announcement.fault:
            result.append(Alert(WARNING, f"{vip} is not announced: {announcement.why}"))
        up = [s for s in statuses if s.vip == str(vip) and s.session == "up"]
        nowhere = announcement.wanted and bool(up) and all(s.out in (NO, NOT_NEGOTIATED) for s in up)
        for s in up:
            if not s.as_desired:
                result.append(Alert(CRITICAL if nowhere else WARNING, f"{s.vip} at {s.peer}: {mismatch(s)}"))
    result += [Alert(WARNING, text) for text in (*problems, *([error] if error is not None else []))]
    return sorted(result, key=lambda alert: alert.severity != CRITICAL)


def mismatch(status: ExportStatus) -> str:
    """Return how an adj-rib-out differs from what is desired."""
    if status.desired == WITHDRAWN:
        return f"to be withdrawn ({status.why}), but still in the adj-rib-out"
    method = "" if status.desired == ANNOUNCED else f" with {status.desired}"
    held = {
        NO: "not in the adj-rib-out",
        NOT_NEGOTIATED: "the router did not negotiate its address family for the session: enable it there",
    }.get(status.out, "the adj-rib-out holds a route with other attributes")
    return f"to be announced{method} ({status.why}), but {held}"
