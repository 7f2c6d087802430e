# SPDX-License-Identifier: Apache-2.0
"""NAT, live: nodes join, drain, leave, lose their power and forward otherwise: no session of others breaks."""

import re
import signal

import pytest
from support.cluster_lab import FOUR
from support.nat_clients import HELD, Clients, held_at
from support.nat_lab import NatLab
from support.segment_faults import without_power
from support.waiting import wait_for

pytestmark = pytest.mark.lab
FIVE = (*FOUR, "b5")


def test_nodes_join_drain_and_leave_and_no_session_breaks(lab: NatLab, clients: Clients) -> None:
    clients.open(control=True)
    lab.start("b5", "speaker", "agent")
    wait_for(lambda: lab.serves(FIVE), "b5 to have joined")
    lab.route_control(FIVE)
    assert clients.broken() == []
    clients.control_breaks()

    clients.open(control=True)
    handed_over = held_at(lab, clients, "b5")
    assert len(handed_over) > HELD / 10
    lab.request("b5", "POST", "/drain")
    wait_for(lambda: lab.serves(FOUR), "b5 to own nothing")
    lab.route_control(FOUR)
    wait_for(lambda: handed_over <= set(lab.states(FOUR)), "the others to have its sessions")
    lab.request("b5", "POST", "/leave")
    lab.stop("b5", "agent", "speaker")
    assert clients.broken() == []
    clients.control_breaks()


def test_the_sessions_of_a_node_without_power_are_lost_and_no_others(lab: NatLab, clients: Clients) -> None:
    clients.open(control=True)
    lost = frozenset(lab.states(["b4"]))
    assert HELD / 10 < len(lost & {one.source for one in clients.nat.report()[0]}) < HELD
    with without_power(lab, "b4"):
        wait_for(lambda: lab.serves(FOUR[:3]), "three nodes")
        lab.route_control(FOUR[:3])
        assert clients.broken(lost=lost) == []
        clients.control_breaks()
    wait_for(lambda: lab.serves(FOUR), "b4 to be back")
    lab.route_control(FOUR)
    assert clients.broken(lost=lost) == [], "b4 booted without sessions, and took none that it did not know"


def test_an_agent_that_ends_without_a_drain_leaves_its_sessions_where_packets_find_them(
    lab: NatLab, clients: Clients
) -> None:
    """The others take its rows 10 s later, and cannot ask it for its sessions. Its data path still has them."""
    clients.open(control=True)
    left = held_at(lab, clients, "b4")  # not UDP, which a new owner takes at once
    assert len(left) > HELD / 10
    lab.kill("b4", "agent", signal.SIGKILL)
    wait_for(lambda: lab.serves(FOUR[:3]), "three nodes to own all rows")
    lab.route_control(FOUR[:3])
    assert clients.broken() == []
    clients.control_breaks()
    assert not left & set(lab.states(FOUR[:3])), "no other node has them"
    lab.start_agent("b4")
    wait_for(lambda: lab.serves(FOUR), "b4 to be back")
    lab.route_control(FOUR)
    assert clients.broken() == []


@pytest.mark.parametrize("forward", ["gue", "ipip"])
def test_a_change_of_forward_restarts_agents_and_replaces_programs_and_breaks_nothing(
    lab: NatLab, clients: Clients, forward: str
) -> None:
    """Under open connections: for a time two nodes send by one method, two by another."""
    clients.open()
    config = lab.folder / "lb-nat.yml"
    config.write_text(re.sub(r"  forward: \w+", f"  forward: {forward}", config.read_text()))
    before = lab.nat_counters()
    for pair in (FOUR[:2], FOUR[2:]):
        for node in pair:
            lab.stop_agent(node, signal.SIGKILL)
            lab.start(node, "agent")
        wait_for(lambda: lab.serves(FOUR), "four nodes")
        assert clients.broken() == []
    now = lab.nat_counters()
    assert all(now[node]["rx_tunnel"] > before[node]["rx_tunnel"] for node in FOUR)
