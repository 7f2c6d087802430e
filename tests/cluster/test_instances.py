# SPDX-License-Identifier: Apache-2.0
"""Two server processes of one node behind one port of the VIP: which one answers is the agent's choice.

client 10.1.0.2, 10.1.1.0/24 ── router ── segment ── b1 (blue, green), b2 b3 b4     topology/segment.clab.yml

Only b1 has servers for the service `web`, so it owns all its flows.
"""

import shlex
import signal
import sys
from collections.abc import Iterator

import pytest
from support.cluster_lab import FOUR, ClusterLab, cluster_lab, copy_topology, edit
from support.instances import ANY, SERVER
from support.waiting import wait_for

from topology.errors import LabError

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

PORT = 8080
SERVICE = """services:
  - name: web
    vip: 10.99.0.1
    protocol: tcp
    port: 8080
    forward: l2
    health: {type: tcp, interval_s: 0.5, timeout_s: 0.5}
    instances: {policy: standby, match: [{pidfile: /run/blue.pid}, {pidfile: /run/green.pid}]}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterLab]:
    topology = copy_topology(tmp_path_factory.mktemp("instances"))
    edit(topology / "lb.yml", ("services:\n", SERVICE))
    with cluster_lab("instances", topology / "segment.clab.yml") as running:
        start(running, "blue")
        start(running, "green")
        wait_for(lambda: states(running) == {"blue": "active", "green": "standby"}, "both to be found")
        wait_for(lambda: all(takers(running, node) == {"b1"} for node in FOUR), "b1 to own the flows")
        wait_for(lambda: answers(running) == {"blue"}, "the tables to be in use")
        yield running


def takers(cluster: ClusterLab, node: str) -> set[str]:
    """Return the nodes that take new connections for the service, in a node's view."""
    try:
        services = cluster.status(node)["services"]
    except LabError:  # its agent has not started
        return set()
    members = next(service["members"] for service in services if service["name"] == "web")
    return {cluster.names[member["address"]] for member in members if member["effective"]}


def start(cluster: ClusterLab, name: str) -> None:
    """Start a server of that name on b1, and wait until it listens."""
    server = shlex.join([sys.executable, "-S", "-c", SERVER, name, ANY, "reuse", "0", str(PORT)])
    log, pidfile = f"/run/{name}.log", f"/run/{name}.pid"
    cluster.lab.exec("b1", ["sh", "-c", f"{server} > {log} 2>&1 & echo $! > {pidfile}"])
    wait_for(lambda: cluster.lab.exec("b1", ["cat", log], check=False).stdout == "listens\n", f"{name} to listen")


def kill(cluster: ClusterLab, name: str) -> None:
    cluster.lab.exec("b1", ["sh", "-c", f"kill -9 $(cat /run/{name}.pid)"])


def states(cluster: ClusterLab) -> dict[str, str]:
    try:
        (service,) = cluster.lbctl("b1", "instance", "list", "-o", "json")["services"]
    except (AssertionError, LabError):  # the agent has not started
        return {}
    return {one["name"]: one["state"] for one in service["instances"]}


def answer(cluster: ClusterLab) -> str | None:
    """Return the server that answers a new connection to the VIP."""
    try:
        with cluster.connect(port=PORT) as connection:
            return connection.recv(100).decode()
    except OSError:
        return None


def answers(cluster: ClusterLab) -> set[str | None]:
    return {answer(cluster) for _ in range(20)}


def test_primary_standby_and_back(cluster: ClusterLab) -> None:
    assert answers(cluster) == {"blue"}
    kill(cluster, "blue")
    assert answers(cluster) == {"green"}
    wait_for(lambda: states(cluster) == {"green": "active"})
    start(cluster, "blue")
    wait_for(lambda: states(cluster) == {"blue": "active", "green": "standby"})
    assert answers(cluster) == {"blue"}


def test_the_operator_switches_and_the_choice_outlives_the_agent(cluster: ClusterLab) -> None:
    assert "preferred" in cluster.lbctl("b1", "instance", "switch", "green")
    assert answers(cluster) == {"green"}
    assert "web: standby: blue standby, green active\n" in cluster.lbctl("b1", "status")
    refused = cluster.lbctl("b1", "instance", "switch", "red", code=1)
    assert refused == "lbctl: red is no instance of web; it has blue, green\n"
    cluster.stop_agent("b1", signal.SIGKILL)
    assert answers(cluster) == {"green"}
    kill(cluster, "green")
    assert answers(cluster) == {"blue"}, "without an agent too"
    start(cluster, "green")
    cluster.start_agent("b1")
    wait_for(lambda: states(cluster) == {"blue": "active", "green": "standby"})
    assert answers(cluster) == {"blue"}, "green had gone: the order decides again"


def test_detach_leaves_nothing_and_the_next_agent_chooses_again(cluster: ClusterLab) -> None:
    cluster.stop_agent("b1")
    assert cluster.lbctl("b1", "agent", "detach") == "detached\n"
    assert "anylb" not in cluster.lab.exec("b1", ["ls", "/sys/fs/bpf"]).stdout
    cluster.start_agent("b1")
    wait_for(lambda: states(cluster) == {"blue": "active", "green": "standby"})
    wait_for(lambda: answers(cluster) == {"blue"})
