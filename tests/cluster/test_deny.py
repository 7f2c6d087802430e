# SPDX-License-Identifier: Apache-2.0
"""The deny list of a running cluster: it applies at once, and outlives the agent.

client 10.1.0.2, 10.1.1.0/24 ── router ── segment ── b1 b2 b3 b4        topology/segment.clab.yml
"""

import sys
from collections.abc import Iterator

import pytest
from support.cluster_lab import FOUR, ClusterLab, cluster_lab
from support.waiting import wait_for

from topology.errors import LabError

pytestmark = pytest.mark.lab

CONNECT = """
import socket, sys
with socket.socket() as sock:
    sock.settimeout(1.5)
    sock.bind((sys.argv[1], 0))
    sock.connect(("10.99.0.1", 7000))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterLab]:
    with cluster_lab("deny") as running:
        for node in FOUR:
            wait_for(lambda node=node: serves(running, node), f"{node} to serve")
        yield running


def serves(cluster: ClusterLab, node: str) -> bool:
    """Whether a node is ready, has all four as members that are up, and announces its VIPs."""
    try:
        status = cluster.status(node)
    except LabError:
        return False
    up = [member for member in status["members"] if member["state"] == "up"]
    return bool(status["ready"] and len(up) == len(FOUR) and all(vip["announced"] for vip in status["vips"]))


def connects(cluster: ClusterLab, source: str) -> bool:
    done = cluster.lab.exec("client", [sys.executable, "-c", CONNECT, source], check=False, timeout=30)
    return done.returncode == 0


def deny(cluster: ClusterLab, node: str, *arguments: str) -> list[dict[str, object]]:
    """Run lbctl deny; return the list after it."""
    return list(cluster.lbctl(node, "deny", *arguments, "-o", "json")["denied"])


def test_a_denied_client_stays_out_until_it_is_deleted(cluster: ClusterLab) -> None:
    assert connects(cluster, "10.1.1.1")
    for node in FOUR:
        assert deny(cluster, node, "add", "10.1.1.1/32") == [{"prefix": "10.1.1.1/32", "configured": False}]
    assert not connects(cluster, "10.1.1.1")
    assert connects(cluster, "10.1.1.2"), "other clients connect"
    explained = cluster.lbctl("b1", "explain", "tcp,10.1.1.1:4000,10.99.0.1:7000", "-o", "json")
    assert explained["denied"] == "10.1.1.1/32"

    cluster.stop_agent("b1")
    assert "no agent answers" in cluster.lbctl("b1", "status", code=3)
    assert not connects(cluster, "10.1.1.1"), "nor without an agent"
    cluster.start_agent("b1")
    wait_for(lambda: serves(cluster, "b1"), "b1 to serve")
    assert [entry["prefix"] for entry in deny(cluster, "b1", "list")] == ["10.1.1.1/32"]
    assert not connects(cluster, "10.1.1.1")

    for node in FOUR:
        assert deny(cluster, node, "del", "10.1.1.1/32") == []
    assert connects(cluster, "10.1.1.1")
    again = cluster.lbctl("b1", "deny", "del", "10.1.1.1/32", code=1)
    assert again == "lbctl: 10.1.1.1/32 is not denied; see `lbctl deny list`\n"


def test_all_nodes_explain_a_flow_alike(cluster: ClusterLab) -> None:
    owners = set()
    for flow in [f"tcp,10.1.1.{i}:4000,10.99.0.1:7000" for i in range(4)]:
        answers = [cluster.lbctl(node, "explain", flow, "-o", "json") for node in FOUR]
        assert len({(answer["row"], tuple(answer["chain"])) for answer in answers}) == 1
        assert len(answers[0]["chain"]) == 4
        assert answers[0]["affinity"] == "5-tuple"
        owners.add(answers[0]["chain"][0])
    assert len(owners) > 1
