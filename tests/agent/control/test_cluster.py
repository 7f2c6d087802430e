# SPDX-License-Identifier: Apache-2.0
"""The report of all members: a node's figures from its status, who is asked, and why one has no overview."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from support.node_status import node_status
from support.observations import node_state

from agent.channel.overview import Count, Load, Overview, Tcp
from agent.channel.state import NodeState
from agent.control.check import Checked, checked
from agent.control.cluster import Cluster, overview, report
from agent.doctor.facts import TcpCount
from agent.membership.agreement import Digests
from agent.model import Member, State
from agent.node.overviews import Overviews

A, B, C, D = (IPv4Address("10.0.0.11") + i for i in range(4))
GIVES = replace(node_state(), gives_overview=True, release="0.2.0")
OWN = Overview(0, State.UP, "ok", 5_000, epoch=1, view_digest=1, tables_digest=2)


def member(address: IPv4Address, lost: bool = False, silent_since: float | None = None) -> Member:
    return Member(address, (1,), {}, lost, 0.0, "", silent_since=silent_since)


class Answering(Overviews):
    """Overviews of which some answer, at once."""

    def __init__(self, found: Mapping[IPv4Address, Overview]) -> None:
        super().__init__(lambda to, kind, payload: None)
        self.found, self.asked = found, list[IPv4Address]()
        self.look = lambda: OWN

    async def collect(self, nodes: Collection[IPv4Address]) -> Mapping[IPv4Address, Overview]:
        self.asked = list(nodes)
        return self.found


def reported(
    members: list[Member], states: Mapping[IPv4Address, NodeState], found: Mapping[IPv4Address, Overview]
) -> tuple[dict[str, Any], list[IPv4Address]]:
    """Return the report's members by address, and who was asked for it."""
    overviews = Answering(found)
    made = asyncio.run(report(Cluster(A, 7, members, states, "0.2.0", overviews)))
    assert (made["node"], made["cluster"]) == ("10.0.0.11", 7)
    return {one["address"]: one for one in made["members"]}, overviews.asked


def test_an_overview_is_the_status_in_figures() -> None:
    status = node_status()
    status["connections"], status["sessions"] = {"held": 30, "age_s": 1.0}, {"slots": 100, "free": 90, "established": 7}
    found = checked(status, {"faults": []}, 0.0)
    one = overview(status, found, Digests(11, 22), TcpCount(500, 3), 1_000)
    assert (one.state, one.verdict, one.read_ns, one.ready, one.attached, one.relay) == (
        State.UP, found.state, 1_000, True, True, True,
    )  # fmt: skip
    assert (one.epoch, one.view_digest, one.tables_digest) == (1, 11, 22)
    assert (one.services, one.vips) == (Count(2, 2), Count(1, 2))
    assert one.sessions.all == 1
    assert (one.faults, one.first_fault) == (len(found.faults), found.faults[0].text)
    assert one.load == Load(from_routers=200, dropped=10, held=37)
    assert one.tcp == Tcp(accepted=500, resets=3)


def test_an_overview_before_the_first_count_and_scan() -> None:
    status = node_status() | {"connections": None, "sessions": {}}
    one = overview(status, Checked("ok", (), "", {}), Digests(0, 0), None, 1)
    assert (one.load.held, one.faults, one.first_fault, one.tcp) == (0, 0, "", None)


def test_a_member_that_answers_is_compared_with_this_node() -> None:
    same, other = (
        replace(OWN, read_ns=9),
        replace(OWN, view_digest=3, tables_digest=4, first_fault="b", faults=1, tcp=Tcp(9, 8)),
    )
    found, asked = reported([member(A), member(B), member(C)], {B: GIVES, C: GIVES}, {B: same, C: other})
    assert asked == [B, C], "this node is not asked"
    shown = {address: one["overview"] for address, one in found.items()}
    assert all(one["answers"] and one["why"] is None and one["release"] == "0.2.0" for one in found.values())
    assert [(one["same_view"], one["same_tables"]) for one in shown.values()] == [(True, True)] * 2 + [(False, False)]
    assert (shown["10.0.0.12"]["first_fault"], shown["10.0.0.13"]["first_fault"]) == (None, "b")
    assert (shown["10.0.0.12"]["tcp"], shown["10.0.0.13"]["tcp"]) == (None, {"accepted": 9, "resets": 8})
    assert shown["10.0.0.12"]["services"] == {"well": 0, "all": 0}


@pytest.mark.parametrize(
    ("state", "one", "asked", "why"),
    [
        (None, member(B), False, "its agent has no session with this node's"),
        (replace(GIVES, gives_overview=False, release="0.1.9"), member(B), False, "older release (0.1.9)"),
        (GIVES, member(B), True, "does not answer within 0.75 s: see `systemctl status lb-agent` there"),
        (GIVES, member(B, silent_since=0.0), True, "check whether it runs"),
        (GIVES, member(B, lost=True, silent_since=0.0), False, "check whether it runs"),
    ],
)
def test_why_there_is_no_overview(state: NodeState | None, one: Member, asked: bool, why: str) -> None:
    found, nodes = reported([member(A), one], {} if state is None else {B: state}, {})
    shown = found["10.0.0.12"]
    assert why in shown["why"]
    assert (shown["overview"], shown["answers"]) == (None, False)
    assert (shown["silent_s"] is None) == (one.silent_since is None)
    assert nodes == ([B] if asked else [])
