# SPDX-License-Identifier: Apache-2.0
"""What is wrong with this node, for a monitoring system: one verdict over all that `lbctl status` shows. Pure.

    GET  /check           {"state": ok | warning | critical, "faults": [{"severity", "text"}], "summary", "figures"}

Critical is what takes a service from clients, or soon may: this node does not forward, a service is up nowhere, no
router has its VIP, connections may be reset because tables differ, sessions have no room. All else is a warning. What
an operator has ordered (a drain, a VIP withdrawn) is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from agent.announcing.alert import CRITICAL, WARNING, Alert

SETTLE_S = 30.0
"""How long nodes may differ: after a change each asks the others one after the other."""
FULL = 0.95
"""The share of NAT's session slots from which new sessions may find no room in their buckets."""
OK = "ok"


@dataclass(frozen=True, slots=True)
class Checked:
    """The verdict: `state` is that of the worst fault; faults are critical ones first."""

    state: str
    faults: tuple[Alert, ...]
    summary: str
    """How many of each kind are well, in a line."""
    figures: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return it as the control socket serves it."""
        return {
            "state": self.state,
            "faults": [asdict(fault) for fault in self.faults],
            "summary": self.summary,
            "figures": dict(self.figures),
        }


def checked(status: Mapping[str, Any], announcing: Mapping[str, Any], wall: float) -> Checked:
    """Return the verdict on a status (status.py) and a report of announcements (announce.py) at a time."""
    announced = [Alert(one["severity"], one["text"]) for one in announcing["faults"]]
    found = [*_node(status), *_services(status), *_members(status, wall), *_room(status), *announced]
    # The status names some of it too, as a problem: once is enough, with the higher severity.
    found += [Alert(WARNING, text) for text in status["problems"]]
    found += [Alert(WARNING, f"BGP peer {text}") for text in status["bgp"]["down"]]
    faults = {one.text: one for one in sorted(found, key=lambda one: one.severity == CRITICAL)}
    ordered = sorted(faults.values(), key=lambda one: one.severity != CRITICAL)
    figures = _figures(status)
    return Checked(ordered[0].severity if ordered else OK, tuple(ordered), _summary(status, figures), figures)


def _node(status: Mapping[str, Any]) -> Iterator[Alert]:
    if status["fault"]:
        yield Alert(CRITICAL, status["fault"])
    elif not status["ready"]:
        yield Alert(CRITICAL, "this node does not forward yet, or does not know the members; see `lbctl status`")
    if status["xdp"]["fallback_reason"]:
        yield Alert(WARNING, status["xdp"]["fallback_reason"])
    for error in status["egress"]["errors"]:
        yield Alert(WARNING, f"no egress filter: {error}")


def _services(status: Mapping[str, Any]) -> Iterator[Alert]:
    for one in status["services"]:
        if not one["taken"]:
            yield Alert(CRITICAL, f"{one['name']}: no member takes new connections; see `lbctl status` on each node")
        if not one["healthy"]:
            yield Alert(WARNING, f"{one['name']} is unhealthy here: {one['why']}")


def _members(status: Mapping[str, Any], wall: float) -> Iterator[Alert]:
    membership = status["membership"]
    if membership["isolated"]:
        yield Alert(CRITICAL, "no other node answers this one; check its links, and UDP to members.port")
    for member in status["members"]:
        address, echo = member["address"], member["echo"]
        if not member["same_epoch"]:
            yield Alert(CRITICAL, f"{address} has a different table: compare its `table` and `services` with this node")
        if member["silent_s"] is not None or member["state"] == "lost":
            yield Alert(WARNING, f"{address} does not answer: check whether it runs, and the network to it")
        elif echo is not None and not echo["agent_lives"]:
            yield Alert(WARNING, f"the agent of {address} does not run: `systemctl status lb-agent` there")
        elif not member["reachable"]:
            yield Alert(WARNING, f"{address}: no answer from its next hop; see `ip route get {address}`, `ip neigh`")
    if wall - (membership["since"] or wall) > SETTLE_S:
        for one in membership["differing"]:
            yield Alert(WARNING, f"{one['address']} differs in its {one['in']}: `lbctl status` here and there")
    for one in membership["unreachable"]:
        if one["reached_by"]:
            some = ", ".join(one["by"][:3])
            yield Alert(WARNING, f"{some} does not reach {one['address']}, others do: check the network between them")


def _room(status: Mapping[str, Any]) -> Iterator[Alert]:
    if (sessions := status["sessions"]) and 1 - sessions["free"] / sessions["slots"] >= FULL:
        yield Alert(
            CRITICAL, "the table of NAT sessions is full: see `lbctl session list` and docs/nat.md, on more of them"
        )
    for name, rows in ((status["claims"] or {}).get("nearly_full") or {}).items():
        yield Alert(WARNING, f"{rows} rows of {name} have one place left for nodes that hold connections: add no node")


def _figures(status: Mapping[str, Any]) -> dict[str, int]:
    members, peers = status["members"], status["bgp"]["peers"]
    return {
        "services_healthy": sum(one["healthy"] for one in status["services"]),
        "services": len(status["services"]),
        "members_up": sum(one["state"] == "up" and one["silent_s"] is None for one in members),
        "members": len(members),
        "sessions_up": sum(one["state"] == "up" for one in peers),
        "sessions": len(peers),
        "vips_announced": sum(one["announced"] is True for one in status["vips"]),
        "vips": len(status["vips"]),
    }


def _summary(status: Mapping[str, Any], figures: Mapping[str, int]) -> str:
    """Return the counts as text."""
    words = {
        "services_healthy": ("services", "services healthy"),
        "members_up": ("members", "members up"),
        "sessions_up": ("sessions", "BGP sessions up"),
        "vips_announced": ("vips", "VIPs announced"),
    }
    counts = [f"{figures[name]} of {figures[of]} {what}" for name, (of, what) in words.items()]
    return f"node {status['node']['address']} is {status['node']['state']}; {', '.join(counts)}"
