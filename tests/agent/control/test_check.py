# SPDX-License-Identifier: Apache-2.0
"""The verdict of `lbctl check`: each fault alone has its severity, its cause and its next step; a drain is none."""

from typing import Any

import pytest

from agent.control.check import SETTLE_S, Checked, checked

WALL = 1_700_000_000.0


def member(address: str, **changed: Any) -> dict[str, Any]:
    echo = {"answers": True, "agent_lives": True, "ways": {}}
    usual = {"address": address, "state": "up", "same_epoch": True, "silent_s": None, "reachable": True, "echo": echo}
    return usual | changed


def status(**changed: Any) -> dict[str, Any]:
    usual = {
        "node": {"address": "10.0.0.11", "state": "up"}, "fault": None, "ready": True, "problems": [],
        "xdp": {"fallback_reason": None}, "egress": {"errors": []},
        "services": [{"name": "web", "healthy": True, "why": "", "taken": True}],
        "members": [member("10.0.0.11", echo=None), member("10.0.0.12")],
        "membership": {"isolated": False, "since": WALL - 100, "differing": [], "unreachable": []},
        "sessions": None, "claims": None, "vips": [{"announced": True}],
        "bgp": {"peers": [{"state": "up"}], "down": []},
    }  # fmt: skip
    return usual | changed


def verdict(faults: Any = (), wall: float = WALL, **changed: Any) -> Checked:
    return checked(status(**changed), {"faults": list(faults)}, wall)


def test_all_is_well() -> None:
    found = verdict()
    assert (found.state, found.faults) == ("ok", ())
    assert found.summary == (
        "node 10.0.0.11 is up; 1 of 1 services healthy, 2 of 2 members up, 1 of 1 BGP sessions up, "
        "1 of 1 VIPs announced"
    )


def test_what_an_operator_ordered_is_no_fault() -> None:
    drained = member("10.0.0.12", state="draining")
    assert verdict(members=[drained], node={"address": "10.0.0.11", "state": "draining"}).state == "ok"


WEB = {"name": "web", "healthy": True, "why": "", "taken": True}
FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("critical", {"fault": "XDP was detached", "ready": False}, "XDP was detached"),
    ("critical", {"ready": False}, "does not forward yet"),
    ("warning", {"xdp": {"fallback_reason": "generic XDP: slow"}}, "generic XDP: slow"),
    ("warning", {"egress": {"errors": ["no tc"]}}, "no egress filter: no tc"),
    ("warning", {"services": [WEB | {"healthy": False, "why": "refused"}]}, "web is unhealthy here: refused"),
    ("critical", {"services": [WEB | {"taken": False}]}, "web: no member takes new connections"),
    ("critical", {"members": [member("10.0.0.12", same_epoch=False)]}, "10.0.0.12 has a different table"),
    ("warning", {"members": [member("10.0.0.12", silent_s=3.0)]}, "10.0.0.12 does not answer"),
    ("warning", {"members": [member("10.0.0.12", state="lost")]}, "10.0.0.12 does not answer"),
    ("warning", {"members": [member("10.0.0.12", reachable=False)]}, "ip route get 10.0.0.12"),
    ("warning", {"members": [member("10.0.0.12", echo={"agent_lives": False})]}, "agent of 10.0.0.12 does not run"),
    ("warning", {"problems": ["disk full"]}, "disk full"),
    ("warning", {"bgp": {"peers": [], "down": ["10.0.0.1 down: wrong AS"]}}, "BGP peer 10.0.0.1 down: wrong AS"),
    ("critical", {"sessions": {"free": 4, "slots": 100}}, "see `lbctl session list`"),
    ("warning", {"claims": {"nearly_full": {"web": 20}}}, "20 rows of web have one place left"),
]


@pytest.mark.parametrize(("severity", "changed", "text"), FAULTS)
def test_each_fault(severity: str, changed: dict[str, Any], text: str) -> None:
    found = verdict(**changed)
    assert [(fault.severity, text in fault.text) for fault in found.faults] == [(severity, True)]
    assert found.state == severity


def test_nodes_may_differ_for_a_moment() -> None:
    differing = [{"address": "10.0.0.12", "in": "tables"}]
    membership = {"isolated": False, "since": WALL, "differing": differing, "unreachable": []}
    assert verdict(wall=WALL + SETTLE_S, membership=membership).state == "ok"
    late = verdict(wall=WALL + SETTLE_S + 1, membership=membership)
    assert late.faults[0].text.startswith("10.0.0.12 differs in its tables")


def test_of_isolated_and_unanswering() -> None:
    deaf = [{"address": "10.0.0.13", "by": ["10.0.0.11"], "reached_by": ["10.0.0.12"]}]
    membership = {"isolated": True, "since": WALL, "differing": [], "unreachable": deaf}
    assert [fault.severity for fault in verdict(membership=membership).faults] == ["critical", "warning"]


def test_the_same_text_is_one_fault_with_the_higher_severity_and_critical_ones_come_first() -> None:
    announced = [{"severity": "warning", "text": "slow"}, {"severity": "critical", "text": "no session"}]
    found = verdict(announced, problems=["no session", "slow"])
    assert [(fault.severity, fault.text) for fault in found.faults] == [("critical", "no session"), ("warning", "slow")]
