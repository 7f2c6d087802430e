# SPDX-License-Identifier: Apache-2.0
"""A cluster that grows from two nodes to six, and is halved: segment.clab.yml, where only b1 and b2 run at first.

client ── router (BIRD) ── segment ──┬── b1, b2, with ExaBGP, relay, agent and server
                                     └── b3 … b6: they join one by one, 2 s apart; then every other one leaves

Connections are opened all along. None may break whose owner lives, although rows of four places forget owners: nor when
nodes come, go and crash (support/churn.py), nor when all agents die while nodes have places by their claims alone, nor
when they start again with another key of the flow hash. The control is growth without claims: it breaks some.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.churn import Churn, leave, plan
from support.cluster_lab import TOPOLOGY, ClusterLab, cluster_lab, copy_topology, edit
from support.sequence import Outcome, Sequence, patient_traffic
from support.waiting import wait_for

pytestmark = pytest.mark.lab
FIRST, LATER = ("b1", "b2"), ("b3", "b4", "b5", "b6")
ALL = (*FIRST, *LATER)
LEAVING, STAYING = ("b2", "b4", "b6"), ("b1", "b3", "b5")
HELD = 400
SHORT_SEED, SHORT_S = 4, 20.0
"""Churn in which each event happens that there is."""
LONG_S = 60.0
NO_CLAIMS = "table: {claims: false}"


@contextmanager
def two_nodes(folder: Path, name: str, table: str = "") -> Iterator[tuple[ClusterLab, Sequence]]:
    """A cluster of two nodes with connections."""
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
        yield cluster, sequence
        traffic.quit()


def grow(cluster: ClusterLab, sequence: Sequence) -> None:
    """Have the cluster grow to six nodes while connections are opened."""
    for node in LATER:
        cluster.start(node, "speaker", "agent")
        time.sleep(2.0)  # the sequence's own: one node each 2 s
        sequence.open(HELD // 2 // len(LATER))
    wait_for(lambda: settled(cluster, ALL), "six nodes with equal tables")


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


def claims_known(cluster: ClusterLab) -> bool:
    """Whether all nodes know the same claims, there are some, and each node's rows name it where it has connections."""
    first, *others = ({node: rows for node, rows in known.items() if rows} for known in claims(cluster).values())
    held = [one for node in ALL for one in cluster.request(node, "GET", "/connections")["services"]]
    return bool(first) and all(other == first for other in others) and not any(one["not_in_chain"] for one in held)


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


def test_no_connection_breaks_when_a_cluster_grows_and_is_halved(tmp_path_factory: pytest.TempPathFactory) -> None:
    with two_nodes(tmp_path_factory.mktemp("claims"), "claims") as (cluster, sequence):
        grow(cluster, sequence)
        wait_for(lambda: claims_known(cluster), "all to know the same claims")
        print(f"rows claimed: {claims(cluster)['b1']}")
        Churn(cluster, sequence).play(plan(SHORT_SEED, SHORT_S, ALL, up=ALL), HELD // 2)
        wait_for(lambda: settled(cluster, ALL), "six nodes with equal tables")
        wait_for(lambda: claims_known(cluster), "all to know the same claims")
        (old,) = epochs(cluster)
        for node in ALL:
            cluster.kill(node, "agent", signal.SIGKILL)
        time.sleep(3.0)  # the sequence's own: packets by rows alone
        for node in ALL:
            start_with_key(cluster, node)
        wait_for(lambda: settled(cluster, ALL) and old not in epochs(cluster), "six agents to use the new key", 240)
        for node in LEAVING:
            leave(cluster, sequence, node)
        wait_for(lambda: settled(cluster, STAYING), "three nodes with equal tables")
        outcome = sequence.outcome()
    assert outcome.held > HELD / 4
    assert outcome.broken == 0, outcome.details
    assert outcome.failed <= 0.1 * outcome.new, outcome


def test_growth_without_claims_breaks_connections(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The control."""
    with two_nodes(tmp_path_factory.mktemp("claims"), "claims-control", NO_CLAIMS) as (cluster, sequence):
        grow(cluster, sequence)
        assert cluster.status("b1")["claims"] is None
        outcome = sequence.outcome()
    assert outcome.broken > 0


@pytest.mark.slow
def test_no_connection_breaks_in_a_minute_of_churn(churn_seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The seeds are given by --churn-seeds."""
    assert minute_of_churn(tmp_path_factory, churn_seed).broken == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_churn_without_claims_breaks_connections(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The control, of the same seeds in all."""
    seeds = range(1, 1 + int(request.config.getoption("--churn-seeds")))
    if not seeds:
        pytest.skip("no --churn-seeds")
    assert sum(minute_of_churn(tmp_path_factory, seed, NO_CLAIMS).broken for seed in seeds) > 0


def minute_of_churn(folders: pytest.TempPathFactory, seed: int, table: str = "") -> Outcome:
    """Play the churn of a seed, which begins with two nodes."""
    name = f"churn-{seed}" + ("-control" if table else "")
    with two_nodes(folders.mktemp("churn"), name, table) as (cluster, sequence):
        Churn(cluster, sequence).play(plan(seed, LONG_S, ALL, up=FIRST), HELD)
        wait_for(lambda: settled(cluster, ALL), "six nodes with equal tables")
        outcome = sequence.outcome()
    print(outcome.details)
    assert outcome.held > HELD / 4
    return outcome
