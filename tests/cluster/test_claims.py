# SPDX-License-Identifier: Apache-2.0
"""A cluster that grows from two nodes to six, and is halved: segment.clab.yml, where only b1 and b2 run at first.

client ── router (BIRD) ── segment ──┬── b1, b2, with ExaBGP, relay, agent and server
                                     └── b3 … b6: they join one by one, 2 s apart; then every other one leaves

Connections are opened all along. None may break whose owner lives, although rows of four places forget owners: nor when
all agents die while nodes have places by their claims alone, nor when they start again with another key of the flow
hash. The control is growth without claims: it breaks some.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.cluster_lab import TOPOLOGY, ClusterLab, cluster_lab, copy_topology, edit
from support.segment_faults import end, lists
from support.sequence import Sequence, patient_traffic
from support.waiting import wait_for

pytestmark = [pytest.mark.lab, pytest.mark.timeout(280)]
FIRST, LATER = ("b1", "b2"), ("b3", "b4", "b5", "b6")
ALL = (*FIRST, *LATER)
LEAVING, STAYING = ("b2", "b4", "b6"), ("b1", "b3", "b5")
HELD = 400


@contextmanager
def grown(folder: Path, name: str, table: str = "") -> Iterator[tuple[ClusterLab, Sequence]]:
    """A cluster that has grown from two nodes to six while connections were opened."""
    copy = copy_topology(folder)
    for number in (13, 14):
        running = f"env: {{ ADDRESS: 10.0.0.{number} }}\n      exec: *daemons\n"
        edit(copy / "segment.clab.yml", (running, running.splitlines()[0] + "\n"))
    with (copy / "lb.yml").open("a") as config:
        config.write(f"\n{table}\n")
    with cluster_lab(name, copy / "segment.clab.yml") as cluster:
        wait_for(lambda: settled(cluster, FIRST), "two nodes with equal tables")
        traffic = patient_traffic(cluster)
        sequence = Sequence(cluster, traffic, name)
        sequence.open(HELD // 2)
        sequence.fault()
        for node in LATER:
            cluster.start(node, "speaker", "agent")
            time.sleep(2.0)  # the sequence's own: one node each 2 s
            sequence.open(HELD // 2 // len(LATER))
        wait_for(lambda: settled(cluster, ALL), "six nodes with equal tables")
        yield cluster, sequence
        traffic.quit()


def settled(cluster: ClusterLab, nodes: tuple[str, ...]) -> bool:
    """Whether these nodes are the next hops and have equal tables in which all of them take new connections."""
    return cluster.next_hops() == set(nodes) and cluster.tables_agree(nodes, nodes)


def claims(cluster: ClusterLab) -> dict[str, dict[str, int]]:
    """Return how many rows each node claims, by each node that knows it."""
    found = {}
    for node in ALL:
        status = cluster.status(node)["claims"]
        found[node] = {cluster.names[a]: rows for a, rows in status["taken"].items()} | {node: status["given"]}
    return found


def agree(found: dict[str, dict[str, int]]) -> bool:
    """Whether all nodes know the same claims, and there are some."""
    first, *others = ({node: rows for node, rows in known.items() if rows} for known in found.values())
    return bool(first) and all(other == first for other in others)


def epochs(cluster: ClusterLab) -> set[int]:
    """Return the epochs that new flows use."""
    return {cluster.status(node)["node"]["epoch"] for node in ALL}


def start_with_key(cluster: ClusterLab, node: str) -> None:
    """Start a node's agent with a key of the flow hash, and the previous one."""
    folder = cluster.lab.root(node) / "run/new"
    folder.mkdir()
    table = "table: {key_file: new.key, previous: {key_file: null}}"
    (folder / "lb.yml").write_text(f"{(TOPOLOGY / 'lb.yml').read_text()}\n{table}\n")
    (folder / "new.key").write_text("00112233445566778899aabbccddeeff\n")
    (folder / "new.key").chmod(0o600)
    argv = ["lbctl", "agent", "run", "--config", "/run/new/lb.yml"]
    cluster.lab.spawn(node, argv, cluster.lab.root(node) / "var/log/anylb/agent.log")


def leave(cluster: ClusterLab, sequence: Sequence, node: str) -> None:
    """Have a node drain and leave; its own connections are closed in between."""
    cluster.request(node, "POST", "/drain")
    wait_for(lambda: node not in cluster.next_hops(), f"{node} to drain")
    sequence.forget(node)
    cluster.request(node, "POST", "/leave")
    wait_for(lambda: not any(lists(cluster, one, node) for one in STAYING), f"{node} to have left")
    end(cluster, node)


def test_no_connection_breaks_when_a_cluster_grows_and_is_halved(tmp_path_factory: pytest.TempPathFactory) -> None:
    with grown(tmp_path_factory.mktemp("claims"), "claims") as (cluster, sequence):
        wait_for(lambda: agree(claims(cluster)), "all to know the same claims")
        print(f"rows claimed: {claims(cluster)['b1']}")
        (old,) = epochs(cluster)
        for node in ALL:
            cluster.kill(node, "agent", signal.SIGKILL)
        time.sleep(3.0)  # the sequence's own: packets by rows alone
        for node in ALL:
            start_with_key(cluster, node)
        wait_for(lambda: settled(cluster, ALL) and old not in epochs(cluster), "six agents to use the new key", 90)
        for node in LEAVING:
            leave(cluster, sequence, node)
        wait_for(lambda: settled(cluster, STAYING), "three nodes with equal tables")
        outcome = sequence.outcome()
    assert outcome.held > HELD / 4
    assert outcome.broken == 0, outcome.details
    assert outcome.failed <= 0.1 * outcome.new, outcome


def test_growth_without_claims_breaks_connections(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The control."""
    with grown(tmp_path_factory.mktemp("claims"), "claims-control", "table: {claims: false}") as (cluster, sequence):
        assert cluster.status("b1")["claims"] is None
        outcome = sequence.outcome()
    assert outcome.broken > 0
