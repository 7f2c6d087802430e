# SPDX-License-Identifier: Apache-2.0
"""Membership by what nodes answer and publish themselves, whatever becomes of sessions, agents and the wire.

The wire is cut without a change of a link, the router closes sessions, and b5 announces identities of others.
"""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.cluster_lab import FOUR, VIP, ClusterLab, server_of
from support.lying_speaker import LIES_ACCEPTED, announced_by_b5
from support.membership import settled
from support.night_faults import router_has
from support.segment_faults import cut_off
from support.waiting import wait_for

from agent.membership.reachability import OWNS_S
from topology.demo.router_watch import RouterWatch

pytestmark = pytest.mark.lab
HELD = "and its VIPs: fewer than half of the announcers remain"
"""A relay's log, when its agent is silent and it withdraws nothing."""


def members(cluster: ClusterLab) -> dict[str, tuple[str, str]]:
    """(state, why) of the other members by name, in b1's status."""
    others = [m for m in cluster.status("b1")["members"] if m["why"] != "this node"]
    return {cluster.names[m["address"]]: (m["state"], m["why"]) for m in others}


def digest(cluster: ClusterLab) -> str:
    """The digest of b1's table."""
    return str(cluster.status("b1")["services"][0]["digest"])


@contextmanager
def sessions_closed(cluster: ClusterLab, *nodes: str) -> Iterator[None]:
    """Close sessions at the router, as a wrong limit or filter or a lack of memory does."""
    for node in nodes:
        cluster.lab.exec("router", ["birdc", "disable", node])
    try:
        wait_for(lambda: not cluster.next_hops() & set(nodes), "the router to have no route to them")
        yield
    finally:
        for node in nodes:
            cluster.lab.exec("router", ["birdc", "enable", node])
        wait_for(lambda: cluster.next_hops() == set(FOUR) and cluster.tables_agree(), "all to be back")


def connection_to(cluster: ClusterLab, node: str) -> socket.socket:
    """A connection that the node serves."""
    for _ in range(200):
        made = cluster.connect()
        if server_of(made) == node:
            return made
        made.close()
    raise AssertionError(f"{node} served none of 200 connections")


def servers_of_new(cluster: ClusterLab) -> set[str]:
    """Return the servers of 60 new connections."""
    found = set()
    for _ in range(60):
        with cluster.connect() as made:
            found.add(server_of(made))
    return found


# Routers


def test_sessions_that_end_change_no_table(cluster: ClusterLab) -> None:
    """Longer than a silent node would keep its rows; one of the agents starts again meanwhile."""
    before = digest(cluster)
    with connection_to(cluster, "b2") as connection, sessions_closed(cluster, "b2", "b3", "b4"):
        cluster.lab.exec("b3", ["lbctl", "agent", "reload"])
        deadline = time.monotonic() + OWNS_S + 2.0
        while time.monotonic() < deadline:
            assert {state for state, _ in members(cluster).values()} == {"up"}
            assert digest(cluster) == before
            time.sleep(0.1)
        assert server_of(connection) == "b2"
        assert {cluster.server_at(("10.1.1.3", 40_000 + number)) for number in range(60)} == set(FOUR)
    assert digest(cluster) == before


def test_node_whose_session_flaps_is_a_member_all_the_time(cluster: ClusterLab) -> None:
    before = digest(cluster)
    with connection_to(cluster, "b2") as connection:
        for _ in range(4):
            with sessions_closed(cluster, "b2"):
                assert members(cluster)["b2"][0] == "up"
                assert server_of(connection) == "b2"
            assert digest(cluster) == before


# Silence


def state_when_silent(cluster: ClusterLab, node: str) -> tuple[str, str] | None:
    """Wait until a node is silent for b1; return its state and b1's digest, both from the first status that says so.

    None if this status came too late: a node that is silent for so long no longer owns its rows.
    """
    found: list[tuple[str, str] | None] = []

    def is_silent() -> bool:
        status = cluster.status("b1")
        for m in status["members"]:
            if m["address"] == cluster.addresses[node] and m["silent_s"] is not None:
                in_time = m["silent_s"] < OWNS_S
                found.append((m["state"], status["services"][0]["digest"]) if in_time else None)
        return bool(found)

    wait_for(is_silent, f"{node} to be silent")
    return found[0]


def test_no_row_changes_at_first_when_a_node_falls_silent(cluster: ClusterLab) -> None:
    before = digest(cluster)
    for _ in range(5):  # the first status may be late on a busy machine
        with cut_off(cluster, "b4"):
            found = state_when_silent(cluster, "b4")
        wait_for(lambda: settled(cluster), "b4 to be back")
        if found is not None:
            break
    assert found == ("up", before)


def test_node_that_is_cut_off_is_passed_over_then_lost_then_back(cluster: ClusterLab) -> None:
    """The control of the sessions that end: a node that does not answer loses its rows."""
    before = digest(cluster)
    with cut_off(cluster, "b4"):
        wait_for(lambda: members(cluster)["b4"] == ("lost", "does not answer"), "b4 to be lost")
        wait_for(lambda: digest(cluster) != before, "another table")
        assert members(cluster)["b2"][0] == members(cluster)["b3"][0] == "up"
        text = cluster.lab.exec("b1", ["env", "COLUMNS=250", "lbctl", "status"]).stdout
        assert "silent for " in text
    wait_for(lambda: settled(cluster), "b4 to be back")
    assert (members(cluster)["b4"][0], digest(cluster)) == ("up", before)


class RelayLogs:
    """What the relays log from now on."""

    def __init__(self, cluster: ClusterLab) -> None:
        self._files = {node: cluster.lab.root(node) / "var/log/anylb/bgp.log" for node in FOUR}
        self._from = {node: file.stat().st_size for node, file in self._files.items()}

    def having(self, message: str) -> list[str]:
        """Return the nodes whose relay has logged it."""
        return [node for node, file in self._files.items() if message.encode() in self._since(node, file)]

    def _since(self, node: str, file: Path) -> bytes:
        with file.open("rb") as log:
            log.seek(self._from[node])
            return log.read()


def test_node_without_an_agent_keeps_its_connections_and_gets_no_new_ones(cluster: ClusterLab) -> None:
    logs = RelayLogs(cluster)
    with connection_to(cluster, "b3") as connection:
        cluster.kill("b3", "agent")
        try:
            wait_for(lambda: member(cluster, "b3")["services"]["echo"]["effective"] == 0, "b3 to get no new flows")
            one = member(cluster, "b3")
            assert (one["state"], one["silent_s"], one["echo"]["agent_lives"]) == ("draining", None, False)
            assert server_of(connection) == "b3"
            wait_for(lambda: cluster.tables_agree(("b1", "b2", "b4"), {"b1", "b2", "b4"}), "equal tables")
            # Its own data path still takes what the router sends to it, until its relay has withdrawn the VIP.
            wait_for(lambda: "b3" not in cluster.next_hops(), "b3 to be withdrawn")
            assert cluster.next_hops() == {"b1", "b2", "b4"}
            assert logs.having(HELD) == []
            wait_for(lambda: "b3" not in servers_of_new(cluster), "the tables to be in use")
            assert "b3" not in servers_of_new(cluster)
        finally:
            cluster.start("b3", "agent")
            wait_for(lambda: settled(cluster), "b3 to be back")
        assert server_of(connection) == "b3"


# The dead-man's quorum


def test_the_dead_man_does_not_withdraw_a_cluster_of_silent_nodes(cluster: ClusterLab) -> None:
    """The control is the node without an agent: its VIP is withdrawn, since the others remain."""
    logs = RelayLogs(cluster)
    try:
        for node in FOUR:
            cluster.kill(node, "agent")
        wait_for(lambda: logs.having(HELD) == list(FOUR), "all relays to hold")
        wait_for(lambda: cluster.next_hops() == set(FOUR), "all to be announced")
        deadline = time.monotonic() + 3.0
        while time.monotonic() < deadline:
            assert cluster.next_hops() == set(FOUR), "no relay withdraws and announces in turn"
            time.sleep(0.2)
        assert {cluster.server_at(("10.1.1.1", 40_000 + number)) for number in range(60)} == set(FOUR)
    finally:
        for node in FOUR:
            if not cluster.pids(node, "agent"):
                cluster.start(node, "agent")
        wait_for(lambda: cluster.tables_agree() and cluster.next_hops() == set(FOUR), "all to be back")
    assert {m["state"] for m in cluster.status("b1")["members"]} == {"up"}


def test_agents_that_stop_all_at_once_withdraw_no_vip_and_one_alone_does(cluster: ClusterLab) -> None:
    with RouterWatch(cluster.lab.nodes["router"].pid, VIP) as watch:
        try:
            cluster.stop_agent("b3")  # the control: a stop withdraws
            wait_for(lambda: cluster.next_hops() == {"b1", "b2", "b4"}, "b3's VIP to be withdrawn")
            cluster.start("b3", "agent")
            wait_for(lambda: cluster.tables_agree() and cluster.next_hops() == set(FOUR), "b3 to be back")
            began = time.monotonic()
            for node in FOUR:
                cluster.kill(node, "agent", signal.SIGTERM)
            wait_for(lambda: not any(cluster.pids(node, "agent") for node in FOUR), "all to end")
            for number in range(20):
                assert cluster.server_at(("10.1.1.1", 41_000 + number)) in FOUR
        finally:
            for node in FOUR:
                if not cluster.pids(node, "agent"):
                    cluster.start(node, "agent")
            wait_for(lambda: cluster.tables_agree() and cluster.next_hops() == set(FOUR), "all to be back")
        assert frozenset() not in watch.history.changes(began), "there was a next hop all the time"


# Status

DRAINED = ("its state changed to draining", "its number of VIPs decreased")


def test_status_shows_weights_version_table_and_last_change_of_each_node(cluster: ClusterLab) -> None:
    before = member(cluster, "b2")
    assert before["services"] == {"echo": {"state": "up", "weight": 100, "effective": 100}}
    assert before["version"] == cluster.status("b2")["node"]["version"] > 0
    assert len({cluster.status(node)["services"][0]["digest"] for node in FOUR}) == 1
    cluster.lab.exec("b2", ["lbctl", "drain"])
    try:
        wait_for(lambda: member(cluster, "b2")["state"] == "draining", "b1 to learn of it")
        now = member(cluster, "b2")
        assert now["services"] == {"echo": {"state": "draining", "weight": 100, "effective": 0}}
        # The VIP leaves adj-rib-out a moment after the state has changed.
        assert now["why"] in DRAINED
        assert now["since_s"] < 30
        assert (now["version"] > before["version"], now["boot"]) == (True, before["boot"])
        text = cluster.lab.exec("b1", ["env", "COLUMNS=250", "lbctl", "status"]).stdout
        assert any(why in text for why in DRAINED)
        assert "echo 0/100" in text
    finally:
        cluster.lab.exec("b2", ["lbctl", "undrain"])
        wait_for(cluster.tables_agree, "b2 to be back")


def member(cluster: ClusterLab, node: str) -> dict[str, Any]:
    """A member in b1's status."""
    return next(m for m in cluster.status("b1")["members"] if m["address"] == cluster.addresses[node])


def test_status_shows_that_all_agree_and_how_each_answers(cluster: ClusterLab) -> None:
    wait_for(lambda: all(cluster.status(node)["membership"]["agree"] for node in FOUR), "all to agree")
    status = cluster.status("b1")
    assert (status["membership"]["nodes"], status["membership"]["isolated"]) == (4, False)
    others = [m["echo"] for m in status["members"] if m["echo"] is not None]
    assert len(others) == 3
    assert all(echo["answers"] and echo["agent_lives"] and echo["ways"]["plain"]["rtt_ms"] > 0 for echo in others)
    assert "all 4 nodes agree since" in cluster.lab.exec("b1", ["lbctl", "status"]).stdout


# Identities of others


def test_identities_of_others_change_nothing_and_are_named(cluster: ClusterLab) -> None:
    """b5 announces identities of b4, of 10.1.0.13 with b3's tag, and of a node that there is not."""
    b4, before = cluster.addresses["b4"], digest(cluster)
    lies = (b4, None), ("10.1.0.13", 13), ("10.0.0.99", None)
    with router_has(cluster, *LIES_ACCEPTED), announced_by_b5(cluster, *lies):
        expected = {
            "b4": [f"this node's address {b4} is announced by another node as well"],
            "b1": [
                "have the same tag, 13",
                "10.1.0.13 announces itself as a node",
                "10.0.0.99 is named, but its data path does not answer",
            ],
        }
        for node, lines in expected.items():
            for line in lines:
                wait_for(lambda n=node, text=line: text in " ".join(cluster.status(n)["problems"]), line)
        assert "stop one of them" in " ".join(cluster.lab.exec("b4", ["lbctl", "status"]).stdout.split())
        assert {m["address"] for m in cluster.status("b1")["members"]} == {cluster.addresses[node] for node in FOUR}
        assert digest(cluster) == before
    wait_for(lambda: not any(cluster.status(node)["problems"] for node in FOUR), "no problems")
    wait_for(lambda: settled(cluster), "all to agree")
    assert digest(cluster) == before
