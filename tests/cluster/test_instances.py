# SPDX-License-Identifier: Apache-2.0
"""Two server processes of one node behind one port of the VIP: which one answers is the agent's choice.

client 10.1.0.2, 10.1.1.0/24 ── router ── segment ── b1 (blue, green), b2 b3 b4     topology/segment.clab.yml

Only b1 has servers for the service `web`, so it owns all its flows. Those of `inner` listen on 127.0.0.1:9090, which no
packet is addressed to: 10.99.0.2:8443 is steered there.
"""

import contextlib
import shlex
import signal
import socket
import sys
from collections.abc import Iterator

import pytest
from support.cluster_lab import FOUR, ClusterLab, be_patient, cluster_lab, copy_topology, edit, server_or_none
from support.instance_servers import ANY, SERVER
from support.waiting import wait_for

from topology.demo.cluster import VIP
from topology.errors import LabError
from topology.lab.netns import inside_net

pytestmark = pytest.mark.lab

PORT = 8080
SERVICE = """services:
  - name: web
    vip: 10.99.0.1
    protocol: tcp
    port: 8080
    forward: l2
    health: {type: tcp, interval_s: 0.5, timeout_s: 0.5}
    instances: {policy: standby, match: [{pidfile: /run/blue.pid}, {pidfile: /run/green.pid}]}
  - name: inner
    vip: 10.99.0.2
    protocol: tcp
    port: 8443
    health: {type: tcp, interval_s: 0.5, timeout_s: 0.5}
    instances: {match: {pidfile: /run/inner.pid}, steer: "127.0.0.1:9090"}
"""
INNER_VIP, INNER_PORT = "10.99.0.2", 8443
INNER = """
import socketserver, sys
class Answer(socketserver.StreamRequestHandler):
    def handle(self):
        for _ in self.rfile:
            self.wfile.write(sys.argv[1].encode() + b"\\n")
socketserver.ThreadingTCPServer.allow_reuse_address = True
server = socketserver.ThreadingTCPServer(("127.0.0.1", 9090), Answer)
print("listens", flush=True)
server.serve_forever()
"""
"""Answers each line with its name. It sets no SO_REUSEPORT."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterLab]:
    topology = copy_topology(tmp_path_factory.mktemp("instances"))
    be_patient(topology)
    edit(topology / "lb.yml", ("services:\n", SERVICE))
    with cluster_lab("instances", topology / "segment.clab.yml") as running:
        start(running, "blue")
        start(running, "green")
        wait_for(lambda: states(running) == {"blue": "active", "green": "standby"}, "both to be found")
        wait_for(lambda: all(takers(running, node) == {"b1"} for node in FOUR), "b1 to own the flows")
        wait_for(lambda: answers(running) == {"blue"}, "the tables to be in use")
        yield running


def takers(cluster: ClusterLab, node: str, name: str = "web") -> set[str]:
    """Return the nodes that take new connections for the service, in a node's view."""
    try:
        services = cluster.status(node)["services"]
    except LabError:  # its agent has not started
        return set()
    members = next(service["members"] for service in services if service["name"] == name)
    return {cluster.names[member["address"]] for member in members if member["effective"]}


def start(cluster: ClusterLab, name: str) -> None:
    """Start a server of that name on b1, and wait until it listens."""
    run(cluster, "b1", name, SERVER, name, ANY, "reuse", "0", str(PORT))


def run(cluster: ClusterLab, node: str, name: str, program: str, *arguments: str) -> None:
    server = shlex.join([sys.executable, "-S", "-c", program, *arguments])
    log, pidfile = f"/run/{name}.log", f"/run/{name}.pid"
    cluster.lab.exec(node, ["sh", "-c", f"{server} > {log} 2>&1 & echo $! > {pidfile}"])
    wait_for(lambda: cluster.lab.exec(node, ["cat", log], check=False).stdout == "listens\n", f"{name} to listen")


def kill(cluster: ClusterLab, name: str) -> None:
    end = "kill -9 $p; while kill -0 $p 2>/dev/null; do sleep 0.01; done"  # until then it still accepts
    cluster.lab.exec("b1", ["sh", "-c", f"p=$(cat /run/{name}.pid); {end}"])


def states(cluster: ClusterLab) -> dict[str, str]:
    try:
        services = cluster.lbctl("b1", "instance", "list", "-o", "json")["services"]
    except (AssertionError, LabError):  # the agent has not started
        return {}
    return {
        one["name"]: one["state"] for service in services if service["name"] == "web" for one in service["instances"]
    }


def answer(cluster: ClusterLab) -> str | None:
    """Return the server that answers a new connection to the VIP."""
    try:
        with cluster.connect(port=PORT) as connection:
            return connection.recv(100).decode()
    except OSError:
        return None


def answers(cluster: ClusterLab) -> set[str | None]:
    return {answer(cluster) for _ in range(20)}


def answers_on_b1(cluster: ClusterLab) -> set[str]:
    """Return the servers that answer clients on b1 itself: other nodes give b1 nothing new when its agent is away."""
    found = set()
    for _ in range(20):
        with (
            inside_net(cluster.lab.nodes["b1"].pid),
            socket.create_connection((VIP, PORT), timeout=20) as connection,
        ):
            found.add(connection.recv(100).decode())
    return found


def test_primary_standby_and_back(cluster: ClusterLab) -> None:
    assert answers(cluster) == {"blue"}
    kill(cluster, "blue")
    assert answers(cluster) == {"green"}
    wait_for(lambda: states(cluster) == {"green": "active"})
    start(cluster, "blue")
    wait_for(lambda: states(cluster) == {"blue": "active", "green": "standby"})
    assert answers(cluster) == {"blue"}


def test_the_operator_switches_and_the_choice_outlives_the_agent(cluster: ClusterLab) -> None:
    assert "preferred" in cluster.lbctl("b1", "instance", "switch", "green", "--service", "web")
    assert answers(cluster) == {"green"}
    assert "web: standby: blue standby, green active\n" in cluster.lbctl("b1", "status")
    refused = cluster.lbctl("b1", "instance", "switch", "red", "--service", "web", code=1)
    assert refused == "lbctl: red is no instance of web; it has blue, green\n"
    cluster.stop_agent("b1", signal.SIGKILL)
    assert answers_on_b1(cluster) == {"green"}
    kill(cluster, "green")
    assert answers_on_b1(cluster) == {"blue"}, "without an agent too"
    start(cluster, "green")
    cluster.start_agent("b1")
    wait_for(lambda: states(cluster) == {"blue": "active", "green": "standby"})
    wait_for(lambda: all(takers(cluster, node) == {"b1"} for node in FOUR), "b1 to own the flows")
    wait_for(lambda: cluster.tables_agree(), "the tables to be in use")
    assert answers(cluster) == {"blue"}, "green had gone: the order decides again"


def test_a_server_on_the_loopback_address_has_the_vips_connections_and_keeps_them(cluster: ClusterLab) -> None:
    """b1's own hold although b2 takes over half of the rows: there the packets meet a listener, and no connection."""
    hops = [part for node in FOUR for part in ("nexthop", "via", cluster.addresses[node])]
    cluster.lab.exec("router", ["ip", "route", "add", INNER_VIP, *hops])  # any node may get any packet
    run(cluster, "b1", "inner", INNER, "b1")
    wait_for(lambda: all(takers(cluster, node, "inner") == {"b1"} for node in FOUR))
    cluster.lab.exec("b1", ["sysctl", "-qw", "net.ipv4.tcp_syncookies=2"])  # always
    held: list[socket.socket] = []
    wait_for(lambda: inner_answers(cluster, held) == {"b1"}, "the tables to be in use")
    run(cluster, "b2", "inner", INNER, "b2")
    wait_for(lambda: all(takers(cluster, node, "inner") == {"b1", "b2"} for node in FOUR))
    wait_for(lambda: inner_answers(cluster, []) == {"b1", "b2"}, "b2 to get new connections")
    assert [server_or_none(one) for one in held] == ["b1"] * len(held)
    found = cluster.service_counters("inner")["b1"]
    assert min(found["deliver_socket"], found["deliver_syn_cookie"]) > 0, found
    cluster.lab.exec("b1", ["sh", "-c", "kill -9 $(cat /run/inner.pid)"])
    wait_for(lambda: all(takers(cluster, node, "inner") == {"b2"} for node in FOUR), "the check to fail on b1")
    wait_for(lambda: inner_answers(cluster, []) == {"b2"})
    for one in held:
        one.close()


def inner_answers(cluster: ClusterLab, held: list[socket.socket]) -> set[str | None]:
    """Open connections, which replace those that are held; return the servers that answer."""
    for one in held:
        one.close()
    with contextlib.suppress(OSError):
        held[:] = [cluster.connect(INNER_VIP, INNER_PORT) for _ in range(20)]
        return {server_or_none(one) for one in held}
    return {None}


def test_detach_leaves_nothing_and_the_next_agent_chooses_again(cluster: ClusterLab) -> None:
    cluster.stop_agent("b1")
    assert cluster.lbctl("b1", "agent", "detach") == "detached\n"
    assert "anylb" not in cluster.lab.exec("b1", ["ls", "/sys/fs/bpf"]).stdout
    cluster.start_agent("b1")
    wait_for(lambda: states(cluster) == {"blue": "active", "green": "standby"})
    wait_for(lambda: answers(cluster) == {"blue"})
