# SPDX-License-Identifier: Apache-2.0
"""No live node is called silent on a machine that is busy with everything else. These tests are the last of
their lab: b3 is dead after them.

    8 busy processes, new connections without end, and all agents killed and started again and again

The data path's own counters show it: a single packet that passed over a silent node, on any node at any time, is
counted in `skip_silent`. The control is a node that really is silent.
"""

import os
import signal
import time
from collections.abc import Iterator

import pytest
from support.busy import Load
from support.cluster_lab import FOUR, ClusterLab
from support.waiting import wait_for

from topology.traffic.controller import TrafficController

pytestmark = pytest.mark.lab

BUSY = 8
FRESH_PER_S = 300
HELD = 100
RESTART_EVERY_S = 8.0
THREE = ("b1", "b2", "b4")


@pytest.fixture(scope="module")
def traffic(cluster: ClusterLab) -> Iterator[TrafficController]:
    """New connections, one after the other."""
    made = cluster.start_traffic()
    made.begin()
    made.fresh(FRESH_PER_S)
    yield made
    made.quit()


def skipped(cluster: ClusterLab, nodes: tuple[str, ...] = FOUR) -> dict[str, int]:
    """How often each node passed over a silent one, or dropped what only a silent one could know."""
    return {
        node: counters.get("skip_silent", 0) + counters.get("drop_silent", 0)
        for node in nodes
        for counters in [cluster.counters(node)]
    }


def restart_all_agents(cluster: ClusterLab) -> None:
    for node in FOUR:
        cluster.kill(node, "agent", signal.SIGKILL)
    wait_for(lambda: not any(cluster.pids(node, "agent") for node in FOUR), "all agents to be gone")
    for node in FOUR:
        cluster.start(node, "agent")
    wait_for(lambda: all(cluster.service_status(node) for node in FOUR), "all agents to be ready")


@pytest.mark.usefixtures("traffic")
def test_no_live_node_is_called_silent_under_full_load(cluster: ClusterLab, request: pytest.FixtureRequest) -> None:
    seconds = request.config.getoption("--echo-load-s")
    before, restarts = skipped(cluster), 0
    with Load(1, BUSY):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            restart_all_agents(cluster)
            restarts += 1
            wait_for(cluster.tables_agree, "equal tables")
            for node in FOUR:
                assert [m["address"] for m in cluster.status(node)["members"] if m["silent_s"] is not None] == []
            time.sleep(min(RESTART_EVERY_S, max(0.0, end - time.monotonic())))
    after = skipped(cluster)
    cores = len(os.sched_getaffinity(0))
    print(f"\n{seconds} s with {BUSY} busy processes on {cores} cores, all agents killed {restarts} times: {after}")
    assert after == before


def test_a_node_that_is_silent_is_noticed(cluster: ClusterLab, traffic: TrafficController) -> None:
    """What clients repeat on their connections to it is dropped for minutes, also by agents that were late."""
    traffic.open(HELD)
    wait_for(lambda: traffic.progress().open == HELD, "held connections")
    before = skipped(cluster, THREE)
    cluster.crash("b3")
    wait_for(lambda: all(n > before[node] for node, n in skipped(cluster, THREE).items()), "b3 to be passed over")
