# SPDX-License-Identifier: Apache-2.0
"""Nodes that die, fall silent, or reach only some others, while others come and go: segment.clab.yml.

client ── router (BIRD) ── segment ──┬── b1 … b4, each with ExaBGP, relay, agent and server
                             │       └── b6, which joins
                             └ cuts nodes off, filters between nodes; no link of a node changes

No connection may break whose owner lives. The control is the same lab as plain ECMP (`XDP=off`).
"""

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.cluster_lab import FOUR, ClusterLab, cluster_lab
from support.segment_faults import PORTS, cut_off, dropped, isolated, joined, to_mac, without_power
from support.sequence import Outcome, Sequence, patient_traffic
from support.waiting import wait_for

from agent.membership.reachability import OWNS_S
from agent.membership.start import START_S
from topology.traffic.controller import TrafficController

pytestmark = pytest.mark.lab
HELD = 150
"""Connections that are opened before a fault, and as many after it."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterLab]:
    with cluster_lab("silence") as made:
        wait_for(lambda: settled(made), "equal tables")
        yield made


@pytest.fixture(scope="module")
def traffic(cluster: ClusterLab) -> Iterator[TrafficController]:
    made = patient_traffic(cluster)
    yield made
    made.quit()


@pytest.fixture
def sequence(cluster: ClusterLab, traffic: TrafficController, request: pytest.FixtureRequest) -> Iterator[Sequence]:
    """A sequence that begins with held connections in a cluster at rest; after it, all are back."""
    wait_for(lambda: settled(cluster), "all to be there")
    made = Sequence(cluster, traffic, request.node.name.removeprefix("test_"))
    made.open(HELD)
    yield made
    wait_for(lambda: settled(cluster), "all to be back")


def settled(cluster: ClusterLab, nodes: tuple[str, ...] = FOUR) -> bool:
    """Whether these nodes are the next hops and have equal tables in which all of them take new connections."""
    return cluster.next_hops() == set(nodes) and cluster.tables_agree(nodes, nodes)


def all_take(cluster: ClusterLab, nodes: tuple[str, ...]) -> bool:
    """Whether these nodes are the next hops, and take new connections for all of them.

    Their tables may differ in later places: a node that has joined does not know who died before.
    """
    statuses = [cluster.service_status(node) for node in nodes]
    return cluster.next_hops() == set(nodes) and all(one and one.takers == set(nodes) for one in statuses)


def silent(cluster: ClusterLab, observer: str) -> set[str]:
    """Return the nodes that are silent for another."""
    members = cluster.status(observer)["members"]
    return {cluster.names[one["address"]] for one in members if one["silent_s"] is not None}


def reached(cluster: ClusterLab, observer: str, node: str) -> tuple[list[str], list[str]] | None:
    """Return the nodes that do not reach a node, and those that do, by another one's status; None if all do."""
    for one in cluster.status(observer)["membership"]["unreachable"]:
        if one["address"] == cluster.addresses[node]:
            not_by, by = ([cluster.names[address] for address in one[key]] for key in ("by", "reached_by"))
            return not_by, by
    return None


def others(*nodes: str) -> tuple[str, ...]:
    return tuple(node for node in FOUR if node not in nodes)


def assert_none_broke(outcome: Outcome, failed: float) -> None:
    """Check that no connection broke, and that at most this share of the new ones failed."""
    assert outcome.held > HELD / 2
    assert outcome.broken == 0, outcome
    assert outcome.failed <= failed * outcome.new, outcome


# A death, and then another change


@contextmanager
def death(cluster: ClusterLab, sequence: Sequence, node: str) -> Iterator[None]:
    """A node dies, and connections are opened once all have noticed."""
    sequence.fault()
    with without_power(cluster, node):
        sequence.forget(node)
        wait_for(lambda: settled(cluster, others(node)), f"{node} to be lost")
        sequence.open(HELD)
        yield


def test_death_then_another_node_joins(cluster: ClusterLab, sequence: Sequence) -> None:
    with death(cluster, sequence, "b3"), joined(cluster, "b6"):
        wait_for(lambda: all_take(cluster, (*others("b3"), "b6")), "b6 to join")
        assert_none_broke(sequence.outcome(), failed=0.2)


def test_death_then_another_node_drains(cluster: ClusterLab, sequence: Sequence) -> None:
    with death(cluster, sequence, "b3"):
        cluster.request("b2", "POST", "/drain")
        try:
            wait_for(lambda: cluster.tables_agree(others("b3"), others("b2", "b3")), "b2 to drain")
            wait_for(lambda: cluster.next_hops() == set(others("b2", "b3")), "b2 to leave the next hops")
            assert_none_broke(sequence.outcome(), failed=0.2)
        finally:
            cluster.request("b2", "POST", "/undrain")


def test_death_then_another_node_joins_without_the_data_path() -> None:
    """The control: plain ECMP moves connections when b3 goes, and again when b6 comes."""
    with cluster_lab("silence-control", env={"XDP": "off"}) as control:
        wait_for(lambda: control.next_hops() == set(FOUR), "four next hops")
        made = patient_traffic(control)
        sequence = Sequence(control, made, "control: plain ECMP")
        sequence.open(HELD)
        sequence.fault()
        with without_power(control, "b3"):
            sequence.forget("b3")
            wait_for(lambda: control.next_hops() == set(others("b3")), "b3 to leave the next hops")
            sequence.open(HELD)
            control.start("b6", "speaker", "agent")
            wait_for(lambda: "b6" in control.next_hops(), "b6 to join")
            outcome = sequence.outcome()
        made.quit()
    assert outcome.broken > outcome.held / 10


# Agents that are away meanwhile


def start_agents(cluster: ClusterLab, *nodes: str) -> None:
    for node in nodes:
        if not cluster.pids(node, "agent"):
            cluster.start(node, "agent")


def test_all_agents_killed_while_a_node_dies(cluster: ClusterLab, sequence: Sequence) -> None:
    living = others("b3")
    try:
        for node in FOUR:
            cluster.kill(node, "agent")
        wait_for(lambda: not any(cluster.pids(node, "agent") for node in FOUR), "all agents to be gone")
        sequence.fault()
        with without_power(cluster, "b3"):
            sequence.forget("b3")
            time.sleep(4.0)  # the sequence's own: agents are away that long
            start_agents(cluster, *living)
            began = time.monotonic()
            wait_for(lambda: all(knows(cluster, node, "b3") for node in living), "a right view")
            known = time.monotonic()
            print(f"the view was right {known - began:.1f} s after the start")
            wait_for(lambda: settled(cluster, living), "equal tables")
            sequence.open(HELD)
            outcome = sequence.outcome()
    finally:
        start_agents(cluster, *living)
    assert_none_broke(outcome, failed=1.0)
    assert outcome.healed_s < known - sequence.fault_at + START_S


def knows(cluster: ClusterLab, observer: str, dead: str) -> bool:
    """Whether an agent is ready and knows of a node's death."""
    return bool(cluster.service_status(observer) and dead in silent(cluster, observer))


def test_agent_starts_again_while_another_node_dies(cluster: ClusterLab, sequence: Sequence) -> None:
    cluster.stop_agent("b1", signal.SIGKILL)
    try:
        sequence.fault()
        with without_power(cluster, "b3"):
            sequence.forget("b3")
            start_agents(cluster, "b1")
            wait_for(lambda: settled(cluster, others("b3")), "b3 to be lost")
            sequence.open(HELD)
            outcome = sequence.outcome()
    finally:
        start_agents(cluster, "b1")
    assert_none_broke(outcome, failed=0.3)


def test_pins_removed_under_a_live_agent(cluster: ClusterLab, sequence: Sequence) -> None:
    folder = cluster.lab.root("b2") / "sys/fs/bpf/anylb"
    pins, tables = names(folder), set[object]()

    with watching(lambda: tables.add(cluster.service_status("b1"))):
        sequence.fault()
        shutil.rmtree(folder)
        wait_for(lambda: names(folder) == pins, "b2's agent to make them again")
        print(f"healed after {time.monotonic() - sequence.fault_at:.1f} s")
        cluster.stop_agent("b2", signal.SIGKILL)
        start_agents(cluster, "b2")
        wait_for(lambda: settled(cluster), "the next agent to take over the data path")
    assert len(tables) == 1, "b2 forwards all the time, so nothing changes for others"
    sequence.open(HELD)
    cluster.request("b3", "POST", "/drain")
    try:
        wait_for(lambda: cluster.tables_agree(FOUR, others("b3")), "b3 to drain")
        wait_for(lambda: cluster.next_hops() == set(others("b3")), "b3 to leave the next hops")
        assert_none_broke(sequence.outcome(), failed=0.2)
    finally:
        cluster.request("b3", "POST", "/undrain")


def names(folder: Path) -> list[str]:
    """Return what is pinned below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@contextmanager
def watching(look: Callable[[], object]) -> Iterator[None]:
    """Look all the time: what is watched for may last for a tenth of a second."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(0.02):
            with ExitStack() as stack:
                stack.push(lambda *_: True)  # the agent may not answer just now
                look()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# Cut off for a while


AWAY_S = 25.0
"""Longer than a hold time, a heartbeat, a grace period and ExaBGP's pause between attempts. Other times are played in
virtual time: tests/proof/test_cluster_stories.py."""


def test_node_cut_off_for_a_while(cluster: ClusterLab, sequence: Sequence) -> None:
    """Its own connections live on, too."""
    sequence.fault()
    with cut_off(cluster, "b3"):
        deadline = time.monotonic() + AWAY_S
        wait_for(lambda: all("b3" in silent(cluster, node) for node in others("b3")), "b3 to be silent")
        wait_for(lambda: settled(cluster, others("b3")), "b3 to be lost")
        sequence.open(HELD)
        time.sleep(max(0.0, deadline - time.monotonic()))
    wait_for(lambda: settled(cluster), "b3 to be back")
    assert_none_broke(sequence.outcome(), failed=0.2)


def test_node_boots_cut_off_from_the_others_and_is_then_the_last_one(cluster: ClusterLab, sequence: Sequence) -> None:
    """It waits while the router sends packets to nodes that do not answer it. The control: these lose their power."""
    living, mac = others("b4"), cluster.mac
    ways = {PORTS[node]: [to_mac(mac("b4"))] for node in living} | {PORTS["b4"]: [to_mac(mac(node)) for node in living]}
    sequence.fault()
    with dropped(cluster, ways):
        with without_power(cluster, "b4"):
            sequence.forget("b4")
            wait_for(lambda: settled(cluster, living), "b4 to be lost")
        wait_for(lambda: cluster.agent_answers("b4"), "b4's agent")
        waits = "routers send packets to other nodes, but none of these answers this one"
        wait_for(lambda: waits in "".join(cluster.status("b4")["problems"]), "b4 to wait")
        deadline = time.monotonic() + 2 * START_S
        while time.monotonic() < deadline:
            assert cluster.next_hops() == set(living)
            time.sleep(0.2)
        assert_none_broke(sequence.outcome(), failed=0.2)
        with ExitStack() as power:
            for node in living:
                power.enter_context(without_power(cluster, node))
            began = time.monotonic()
            wait_for(lambda: cluster.next_hops() == {"b4"}, "the last node to serve")
            print(f"the last node served {time.monotonic() - began:.1f} s after the others' end")
            assert cluster.server_at(("10.1.1.1", 42_000)) == "b4"


def test_nodes_reach_only_the_router(cluster: ClusterLab, sequence: Sequence) -> None:
    sequence.fault()
    with isolated(cluster, *FOUR):
        deadline = time.monotonic() + 15.0
        wait_for(lambda: all(silent(cluster, node) == set(others(node)) for node in FOUR), "all to be silent")
        time.sleep(max(0.0, deadline - time.monotonic()))
        assert cluster.next_hops() == set(FOUR)
    wait_for(lambda: settled(cluster), "all to be back")
    assert_none_broke(sequence.outcome(), failed=1.0)


def test_node_reached_by_some_only(cluster: ClusterLab, sequence: Sequence) -> None:
    """Nothing passes between b1 and b3, longer than a silent node keeps its rows: no table changes."""
    before = cluster.service_status("b1")
    ways = {PORTS["b1"]: [to_mac(cluster.mac("b3"))], PORTS["b3"]: [to_mac(cluster.mac("b1"))]}
    sequence.fault()
    with dropped(cluster, ways):
        wait_for(lambda: silent(cluster, "b1") == {"b3"} and silent(cluster, "b3") == {"b1"}, "both to be silent")
        deadline = time.monotonic() + 2 * OWNS_S
        while time.monotonic() < deadline:
            assert {cluster.service_status(node) for node in FOUR} == {before}
            time.sleep(0.2)
        assert not silent(cluster, "b2") | silent(cluster, "b4")
        wait_for(lambda: reached(cluster, "b2", "b3") == (["b1"], ["b2", "b4"]), "b2 to know who reaches b3")
    wait_for(lambda: not silent(cluster, "b1") | silent(cluster, "b3"), "both to reach each other")
    assert_none_broke(sequence.outcome(), failed=0.4)
