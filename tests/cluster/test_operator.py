# SPDX-License-Identifier: Apache-2.0
"""What an operator changes on a running cluster: reload, backends, the health check's file, nobody healthy.

    client ── router (BIRD) ── segment ──┬── b1 … b4, each with ExaBGP, relay, agent and echo server
                                         └── b5, unused

All nodes read the same copy of lb.yml, which the tests change; who is not told to reload goes on as before.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.waiting import wait_for

from topology.demo.cluster import VIP, Cluster
from topology.demo.router_watch import RouterWatch
from topology.lab.lab import Lab
from topology.lab.netns import inside_net

pytestmark = pytest.mark.lab
TOPOLOGY = Path(__file__).parents[2] / "topology"
FOUR = ("b1", "b2", "b3", "b4")


class Bench:
    """The cluster, its configuration's file, and the router's next hops over time."""

    def __init__(self, cluster: Cluster, file: Path, watch: RouterWatch) -> None:
        self.cluster, self.file, self.watch = cluster, file, watch
        self.text = file.read_text()
        self.changed: set[str] = set()
        """The nodes that may have read another text than the original."""

    def configure(self, *changes: tuple[str, str]) -> None:
        """Write the original configuration with some texts replaced; in place, for the file is bind-mounted."""
        text = self.text
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        self.file.write_text(text)

    def lbctl(self, node: str, *arguments: str, code: int = 0) -> Any:
        done = self.cluster.lab.exec(node, ["lbctl", *arguments], check=False)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout) if "json" in arguments else done.stdout + done.stderr

    def reload(self, *nodes: str) -> None:
        for node in nodes:
            assert self.lbctl(node, "agent", "reload") == "reloaded\n"
            self.changed.add(node)

    def status(self, node: str) -> Any:
        return self.cluster.request(node, "GET", "/status")

    def share(self, of: str, seen_by: str) -> tuple[str, int, int]:
        """State, nominal and effective weight of a member as another node believes it."""
        members = self.status(seen_by)["services"][0]["members"]
        found = next(m for m in members if m["address"] == self.cluster.addresses[of])
        return found["state"], found["weight"], found["effective"]

    def hops(self) -> set[str]:
        return {self.cluster.names.get(hop, hop) for hop in self.watch.history.current}

    def connect(self, count: int) -> list[socket.socket]:
        with inside_net(self.cluster.lab.nodes["client"].pid):
            made = [
                socket.create_connection((VIP, 7000), timeout=5, source_address=(f"10.1.1.{i % 200 + 1}", 0))
                for i in range(count)
            ]
        for each in made:
            talk(each)
        return made


def talk(connection: socket.socket) -> str:
    connection.sendall(b"1\n")
    said = connection.recv(100)
    assert said, "the connection was closed"
    return said.split()[0].decode()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("operator") / "topology"
    shutil.copytree(TOPOLOGY, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    with Lab.up(folder / "segment.clab.yml", f"operator-{os.getpid()}", keep=False) as lab:
        cluster = Cluster(lab, "bird")
        with RouterWatch(lab.nodes["router"].pid, VIP) as watch:
            made = Bench(cluster, folder / "lb.yml", watch)
            settle(made)
            yield made


def settle(bench: Bench) -> None:
    """All four announce, and agree on the tables."""
    wait_for(lambda: bench.hops() == set(FOUR), "four next hops")
    wait_for(
        lambda: len({view and view.digest for view in map(bench.cluster.service_status, FOUR)}) == 1, "equal tables"
    )


@pytest.fixture
def bench(running: Bench) -> Iterator[Bench]:
    running.configure()
    yield running
    running.configure()
    running.reload(*sorted(running.changed))
    running.changed.clear()
    settle(running)


def test_a_reload_disturbs_neither_routes_nor_connections(bench: Bench) -> None:
    connections = bench.connect(60)
    sessions, began = {node: bench.cluster.bgp_session(node) for node in FOUR}, time.monotonic()
    pids = {node: bench.cluster.pids(node, "agent") for node in FOUR}
    bench.reload(*FOUR)
    bench.reload(*FOUR)
    for connection in connections:
        talk(connection)
        connection.close()
    assert {node: bench.cluster.bgp_session(node) for node in FOUR} == sessions
    assert {node: bench.cluster.pids(node, "agent") for node in FOUR} == pids
    assert bench.watch.history.changes(began) == []
    bench.changed.clear()  # with what they had
    assert {bench.status(node)["vips"][0]["why"] for node in FOUR} == {"healthy"}


def test_a_broken_file_is_refused_and_nothing_changes(bench: Bench) -> None:
    before, began = bench.status("b1"), time.monotonic()
    for change, told in (
        (("port: 7000", "port: 70000"), "/etc/anylb/lb.yml:11:11: services[0].port: 70000 is neither in 1-65535"),
        (("interface: eth1", "interface: eth9"), "eth9"),
        (("cluster: 4242", "cluster: ]"), "/etc/anylb/lb.yml:2:10"),
    ):
        bench.configure(change)
        said = bench.lbctl("b1", "agent", "reload", code=1)
        assert told in said
        assert "nothing was changed" in said
    # By signal, as systemctl or a script may: the fault is in the log and in the status.
    bench.cluster.kill("b1", "agent", signal.SIGHUP)
    log = bench.cluster.lab.root("b1") / "var/log/anylb/agent.log"
    wait_for(lambda: "not reloaded: /etc/anylb/lb.yml:2:10" in log.read_text(), "the refusal in the log")
    after = bench.status("b1")
    assert after["config"]["generation"] == before["config"]["generation"]
    assert [s["digest"] for s in after["services"]] == [s["digest"] for s in before["services"]]
    assert bench.watch.history.changes(began) == []


def test_a_file_that_cannot_be_carried_out_brings_the_agent_before_back(bench: Bench) -> None:
    """An IPv6 VIP where IPv6 is switched off: nothing in the file is wrong, and the kernel refuses."""
    began, off = time.monotonic(), "/proc/sys/net/ipv6/conf/lo/disable_ipv6"
    bench.cluster.lab.exec("b1", ["sh", "-c", f"echo 1 > {off}"])
    try:
        six = '  - {name: six, vip: "fd99::1", protocol: tcp, port: 7000}\nbgp:'
        bench.configure(("bgp:", six))
        said = bench.lbctl("b1", "agent", "reload", code=1)
        assert "VIPs cannot be put on lo" in said
        assert bench.status("b1")["ready"]
    finally:
        bench.cluster.lab.exec("b1", ["sh", "-c", f"echo 0 > {off}"])
    assert bench.watch.history.changes(began) == []


def test_a_changed_weight_and_a_second_service_are_taken_in(bench: Bench) -> None:
    second = "\n  - {name: more, vip: 10.99.0.1, protocol: tcp, port: 7001, forward: l2, health: {port: 7000}}\n\nbgp:"
    bench.configure(("forward: l2", "forward: l2\n    weight: 70"), ("\nbgp:", second))
    connections = bench.connect(40)
    bench.reload("b2")
    wait_for(lambda: bench.share("b2", "b1") == ("up", 70, 70), "the weight at b1")
    assert [s["name"] for s in bench.status("b2")["services"]] == ["echo", "more"]
    assert bench.share("b1", "b1") == ("up", 100, 100)  # b1 was not told to reload
    bench.configure()
    bench.reload("b2")
    bench.changed.clear()
    wait_for(lambda: bench.share("b2", "b1") == ("up", 100, 100), "the old weight at b1")
    assert [s["name"] for s in bench.status("b2")["services"]] == ["echo"]
    for connection in connections:
        talk(connection)
        connection.close()


def test_a_member_only_serves_without_announcing(bench: Bench) -> None:
    bench.configure(("interface: eth1", "interface: eth1\n  announce: false"))
    bench.reload("b3")
    wait_for(lambda: bench.hops() == {"b1", "b2", "b4"}, "b3 to leave the next hops")
    assert bench.share("b3", "b1") == ("up", 100, 100)
    connections = bench.connect(60)
    assert {talk(connection) for connection in connections} == set(FOUR)
    for connection in connections:
        connection.close()


def test_backend_drain_moves_new_connections_and_keeps_the_route(bench: Bench) -> None:
    connections, began = bench.connect(60), time.monotonic()
    assert bench.lbctl("b2", "backend", "drain") == "echo: draining, weight 0 of 100\n"
    wait_for(lambda: {bench.share("b2", n) for n in FOUR} == {("draining", 100, 0)}, "all to know")
    fresh = bench.connect(60)
    assert {talk(connection) for connection in fresh} == {"b1", "b3", "b4"}
    assert {talk(connection) for connection in connections} == set(FOUR)
    assert bench.watch.history.changes(began) == []
    bench.lbctl("b2", "backend", "undrain", "--service", "echo")
    wait_for(lambda: {bench.share("b2", n) for n in FOUR} == {("up", 100, 100)}, "b2 to be back")
    for connection in (*fresh, *connections):
        talk(connection)
        connection.close()


def test_backend_weight_is_kept_by_the_next_agent(bench: Bench) -> None:
    assert bench.lbctl("b4", "backend", "weight", "25%") == "echo: up, weight 25 of 100\n"
    wait_for(lambda: bench.share("b4", "b1") == ("up", 100, 25), "b1 to know")
    bench.cluster.kill("b4", "agent")
    wait_for(lambda: not bench.cluster.pids("b4", "agent"), "b4's agent to end")
    bench.cluster.start("b4", "agent")
    wait_for(lambda: bench.cluster.service_status("b4"), "b4 to be ready")
    assert bench.share("b4", "b4") == ("up", 100, 25)
    listed = bench.lbctl("b4", "backend", "list", "-o", "json")["backends"]
    assert [(b["address"], b["effective"]) for b in listed if b["this_node"]] == [("10.0.0.14", 25)]
    assert "is more than the nominal weight, 100" in bench.lbctl("b4", "backend", "weight", "101", code=1)
    assert "web is not a service of this node; it has echo" in bench.lbctl(
        "b4", "backend", "weight", "1", "--service", "web", code=1
    )
    bench.lbctl("b4", "backend", "weight", "nominal")
    wait_for(lambda: bench.share("b4", "b1") == ("up", 100, 100), "the old weight")


def test_the_disable_file_takes_the_weight_and_not_the_route(bench: Bench) -> None:
    bench.configure(("      fall: 2", "      fall: 2\n      disable_file: /run/anylb/disabled"))
    bench.reload("b1")
    began = time.monotonic()
    file = bench.cluster.lab.root("b1") / "run/anylb/disabled"
    file.touch()
    wait_for(lambda: bench.share("b1", "b2") == ("up", 100, 0), "weight 0")
    assert bench.status("b1")["services"][0]["why"] == "disabled: /run/anylb/disabled exists"
    file.unlink()
    wait_for(lambda: bench.share("b1", "b2") == ("up", 100, 100), "the weight to be back")
    assert bench.watch.history.changes(began) == []


@pytest.mark.parametrize("policy", ["withdraw", "fail_open"])
def test_nobody_healthy(bench: Bench, policy: str) -> None:
    """The one policy is the other's control."""
    bench.configure(("forward: l2", f"forward: l2\n    when_unhealthy: {policy}"))
    bench.reload(*FOUR)
    for node in FOUR:
        bench.cluster.stop(node, "server")
    wait_for(lambda: all(not bench.status(n)["services"][0]["taken"] for n in FOUR), "all to see all unhealthy")
    if policy == "withdraw":
        wait_for(lambda: bench.hops() == set(), "the VIP to be withdrawn everywhere")
    else:
        wait_for(lambda: bench.status("b1")["vips"][0]["why"] == "no member is healthy: failing open", "the reason")
        assert bench.hops() == set(FOUR)
    for node in FOUR:
        bench.cluster.start(node, "server")
    wait_for(lambda: all(bench.status(n)["services"][0]["healthy"] for n in FOUR), "all healthy")
    settle(bench)
    for connection in bench.connect(40):
        connection.close()
