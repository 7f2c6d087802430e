# SPDX-License-Identifier: Apache-2.0
"""Every member by its own account, asked from this node, for `lbctl cluster` and the page. Changes nothing.

GET /cluster    all members, each with its overview, or why there is none. Counters, not rates: these take two requests.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from agent.channel import state as channel
from agent.channel.overview import Count, Load, Overview, Tcp
from agent.control.check import Checked
from agent.control.load import FORWARDED, NEW, drops, of
from agent.doctor.facts import TcpCount
from agent.membership.agreement import Digests
from agent.model import Member, State
from agent.node.overviews import ATTEMPT_S, ATTEMPTS, Overviews


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the report needs of the agent."""

    own: IPv4Address
    number: int
    """The cluster's number."""
    members: Sequence[Member]
    """All nodes, this one included."""
    states: Mapping[IPv4Address, channel.NodeState]
    """What the other nodes publish of themselves by the channel."""
    release: str
    """The release of this node."""
    overviews: Overviews


def overview(
    status: Mapping[str, Any], found: Checked, digests: Digests, tcp: TcpCount | None, now_ns: int
) -> Overview:
    """Return this node's overview by its status, the verdict and its kernel's counts; `now_ns`: CLOCK_MONOTONIC."""
    services, vips, bgp = status["services"], [*status["vips"], *status["pools"]], status["bgp"]
    return Overview(
        number=0,
        state=State(status["node"]["state"]),
        verdict=found.state,
        read_ns=now_ns,
        ready=status["ready"],
        attached=status["xdp"]["attached"],
        relay=bgp["relay"] == "connected",
        epoch=status["node"]["epoch"],
        view_digest=digests.view,
        tables_digest=digests.tables,
        services=Count(sum(one["healthy"] for one in services), len(services)),
        vips=Count(sum(one["announced"] is True for one in vips), len(vips)),
        sessions=Count(sum(one["state"] == "up" for one in bgp["peers"]), len(bgp["peers"])),
        faults=len(found.faults),
        first_fault=found.faults[0].text if found.faults else "",
        load=_load(status),
        tcp=Tcp(*tcp) if tcp else None,
    )


def _load(status: Mapping[str, Any]) -> Load:
    counters = [one["counters"] for one in status["services"]]
    connections, sessions = status["connections"], status["sessions"]
    return Load(
        from_routers=sum(one.get("rx", 0) for one in counters),
        from_nodes=sum(one.get("rx_forwarded", 0) for one in counters),
        new=sum(int(of(one, NEW)) for one in counters),
        forwarded=sum(int(of(one, FORWARDED)) for one in counters),
        dropped=sum(int(of(one, drops(one))) for one in counters),
        held=(connections["held"] if connections else 0) + (sessions.get("established", 0) if sessions else 0),
    )


async def report(cluster: Cluster) -> dict[str, Any]:
    """Return all members, each with its overview, or why there is none."""
    asked = [one.address for one in cluster.members if _is_asked(cluster, one)]
    found = dict(await cluster.overviews.collect(asked)) if asked else {}
    own, now = cluster.overviews.own(), time.monotonic()
    if own is not None:
        found[cluster.own] = own
    return {
        "node": str(cluster.own),
        "cluster": cluster.number,
        "members": [_member(cluster, one, found.get(one.address), own, now) for one in cluster.members],
    }


def _is_asked(cluster: Cluster, member: Member) -> bool:
    """Whether to ask a node: one that is silent may have an agent that answers, one that is lost has none."""
    state = cluster.states.get(member.address)
    return state is not None and state.gives_overview and not member.lost


def _member(
    cluster: Cluster, member: Member, found: Overview | None, own: Overview | None, now: float
) -> dict[str, Any]:
    state = cluster.states.get(member.address)
    silent_s = None if member.silent_since is None else round(now - member.silent_since, 1)
    release = cluster.release if member.address == cluster.own else state.release if state else None
    return {
        "address": str(member.address),
        "state": member.state,
        "silent_s": silent_s,
        "release": release,
        "answers": found is not None,
        "why": None if found else _why(member, state, silent_s),
        "overview": None if found is None else _overview(found, own),
    }


def _why(member: Member, state: channel.NodeState | None, silent_s: float | None) -> str:
    """Return why there is no overview of a node, with the next step."""
    if member.lost or silent_s is not None:
        return "does not answer: check whether it runs, and the network to it"
    if state is None:
        return "its agent has no session with this node's: see `lbctl status` here and there"
    if not state.gives_overview:
        return f"does not answer: older release ({state.release or 'unnamed'}), see `lbctl status` there"
    return f"does not answer within {ATTEMPTS * ATTEMPT_S:g} s: see `systemctl status lb-agent` there"


def _overview(one: Overview, own: Overview | None) -> dict[str, Any]:
    counts = {"services": one.services, "vips": one.vips, "sessions": one.sessions}
    return {
        "state": one.state,
        "verdict": one.verdict,
        "ready": one.ready,
        "attached": one.attached,
        "relay": one.relay,
        "epoch": one.epoch,
        "same_view": own is not None and one.view_digest == own.view_digest,
        "same_tables": own is not None and one.tables_digest == own.tables_digest,
        **{name: count._asdict() for name, count in counts.items()},
        "faults": one.faults,
        "first_fault": one.first_fault or None,
        "read_ns": one.read_ns,
        "load": one.load._asdict(),
        "tcp": one.tcp._asdict() if one.tcp else None,
    }
