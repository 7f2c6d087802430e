# SPDX-License-Identifier: Apache-2.0
"""Changes by an operator on a running cluster: reload, backends, the health check's file, no healthy server."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator

import pytest
from support.changing_node import NODE, ChangingNode
from support.cluster_lab import FOUR, PORT, server_of
from support.operator_lab import Operator
from support.waiting import wait_for

from topology.demo.cluster import VIP

pytestmark = pytest.mark.lab


@pytest.fixture
def operator(running: Operator) -> Iterator[Operator]:
    running.configure()
    yield running
    running.configure()
    running.reload(*sorted(running.changed))
    running.changed.clear()
    running.settle()


def test_a_reload_disturbs_neither_routes_nor_connections(operator: Operator) -> None:
    connections = operator.cluster.connect_many(60)
    sessions, began = {node: operator.cluster.bgp_session(node) for node in FOUR}, time.monotonic()
    pids = {node: operator.cluster.pids(node, "agent") for node in FOUR}
    operator.reload(*FOUR)
    operator.reload(*FOUR)
    for connection in connections:
        server_of(connection)
        connection.close()
    assert {node: operator.cluster.bgp_session(node) for node in FOUR} == sessions
    assert {node: operator.cluster.pids(node, "agent") for node in FOUR} == pids
    assert operator.history.changes(began) == []
    operator.changed.clear()  # all have the original text
    assert {operator.status(node)["vips"][0]["why"] for node in FOUR} == {"healthy"}


def test_a_broken_file_is_refused_and_nothing_changes(operator: Operator) -> None:
    before, began = operator.status("b1"), time.monotonic()
    for replacement, message in (
        (("port: 7000", "port: 70000"), "/etc/anylb/lb.yml:11:11: services[0].port: 70000 is neither in"),
        (("interface: eth1", "interface: eth9"), "eth9"),
        (("cluster: 4242", "cluster: ]"), "/etc/anylb/lb.yml:2:10"),
    ):
        operator.configure(replacement)
        output = operator.lbctl("b1", "agent", "reload", code=1)
        assert message in output
        assert "nothing was changed" in output
    # By signal, as systemctl or a script may: the error is in the log and in the status.
    operator.cluster.kill("b1", "agent", signal.SIGHUP)
    log = operator.cluster.lab.root("b1") / "var/log/anylb/agent.log"
    wait_for(lambda: "not reloaded: /etc/anylb/lb.yml:2:10" in log.read_text(), "the refusal in the log")
    after = operator.status("b1")
    assert after["config"]["generation"] == before["config"]["generation"]
    assert [s["digest"] for s in after["services"]] == [s["digest"] for s in before["services"]]
    assert operator.history.changes(began) == []


def test_a_file_that_cannot_be_applied_keeps_the_earlier_agent(operator: Operator) -> None:
    """An IPv6 VIP where IPv6 is disabled: the file is valid, and the kernel refuses."""
    six = ("bgp:", '  - {name: six, vip: "fd99::1", protocol: tcp, port: 7000}\nbgp:')
    began, off = time.monotonic(), "/proc/sys/net/ipv6/conf/lo/disable_ipv6"
    operator.cluster.lab.exec("b1", ["sh", "-c", f"echo 1 > {off}"])
    try:
        operator.configure(six)
        output = operator.lbctl("b1", "agent", "reload", code=1)
        assert "VIPs cannot be put on lo" in output
        assert operator.status("b1")["ready"]
    finally:
        operator.cluster.lab.exec("b1", ["sh", "-c", f"echo 0 > {off}"])
    assert operator.history.changes(began) == []


def test_a_changed_weight_and_a_second_service_are_applied(operator: Operator) -> None:
    second = "\n  - {name: more, vip: 10.99.0.1, protocol: tcp, port: 7001, forward: l2, health: {port: 7000}}\n\nbgp:"
    operator.configure(("forward: l2", "forward: l2\n    weight: 70"), ("\nbgp:", second))
    connections = operator.cluster.connect_many(40)
    operator.reload("b2")
    wait_for(lambda: operator.share("b2", "b1") == ("up", 70, 70), "the weight at b1")
    assert [s["name"] for s in operator.status("b2")["services"]] == ["echo", "more"]
    named = "service more: nothing in this network namespace listens on TCP 10.99.0.1:7001: start the service"
    wait_for(lambda: any(line.startswith(named) for line in operator.status("b2")["problems"]), "the missing socket")
    assert named in operator.lbctl("b2", "announce", "check", code=1)
    assert operator.share("b1", "b1") == ("up", 100, 100)  # b1 was not reloaded
    operator.configure()
    operator.reload("b2")
    operator.changed.clear()
    wait_for(lambda: operator.share("b2", "b1") == ("up", 100, 100), "the old weight at b1")
    assert [s["name"] for s in operator.status("b2")["services"]] == ["echo"]
    for connection in connections:
        server_of(connection)
        connection.close()


def test_a_member_only_serves_without_announcing(operator: Operator) -> None:
    operator.configure(("interface: eth1", "interface: eth1\n  announce: false"))
    operator.reload("b3")
    wait_for(lambda: operator.next_hops() == {"b1", "b2", "b4"}, "b3 to leave the next hops")
    wait_for(operator.cluster.tables_agree, "all four to serve")
    assert operator.share("b3", "b1") == ("up", 100, 100)
    connections = operator.cluster.connect_many(60)
    assert {server_of(connection) for connection in connections} == set(FOUR)
    for connection in connections:
        connection.close()


def test_stripped_vlan_tags_are_named_until_they_are_not(operator: Operator) -> None:
    """A veth strips them, as network cards do."""
    line, node = "eth1 strips VLAN tags before the program sees them (rx-vlan-offload)", operator.cluster.lab
    wait_for(lambda: not operator.status("b1")["problems"], "no problem: where no VLAN is used, it does not matter")
    operator.configure(("interface: eth1", "interface: eth1\n  vlans: [5]"))
    operator.reload("b1")
    assert f"node.vlans: {line}" in operator.lbctl("b1", "config", "check")

    def named() -> bool:
        return any(problem.startswith(line) for problem in operator.status("b1")["problems"])

    wait_for(named, "the problem in the status")
    try:
        node.exec("b1", ["ethtool", "-K", "eth1", "rxvlan", "off"])
        wait_for(lambda: not named(), "the problem to end")
        assert line not in operator.lbctl("b1", "config", "check")
    finally:
        node.exec("b1", ["ethtool", "-K", "eth1", "rxvlan", "on"])


def test_backend_drain_moves_new_connections_and_keeps_the_route(operator: Operator) -> None:
    connections, began = operator.cluster.connect_many(60), time.monotonic()
    assert operator.lbctl("b2", "backend", "drain") == "echo: draining, weight 0 of 100\n"
    wait_for(lambda: {operator.share("b2", n) for n in FOUR} == {("draining", 100, 0)}, "all nodes to know")
    wait_for(lambda: operator.cluster.tables_agree(takers=("b1", "b3", "b4")), "all rows to be written")
    fresh = operator.cluster.connect_many(60)
    assert {server_of(connection) for connection in fresh} == {"b1", "b3", "b4"}
    assert {server_of(connection) for connection in connections} == set(FOUR)
    assert operator.history.changes(began) == []
    operator.lbctl("b2", "backend", "undrain", "--service", "echo")
    wait_for(lambda: {operator.share("b2", n) for n in FOUR} == {("up", 100, 100)}, "b2 to be back")
    for connection in (*fresh, *connections):
        server_of(connection)
        connection.close()


def test_backend_weight_is_kept_by_the_next_agent(operator: Operator) -> None:
    assert operator.lbctl("b4", "backend", "weight", "25%") == "echo: up, weight 25 of 100\n"
    wait_for(lambda: operator.share("b4", "b1") == ("up", 100, 25), "b1 to know")
    operator.cluster.stop_agent("b4", signal.SIGKILL)
    operator.cluster.start_agent("b4")
    assert operator.share("b4", "b4") == ("up", 100, 25)
    listed = operator.lbctl("b4", "backend", "list", "-o", "json")["backends"]
    assert [(b["address"], b["effective"]) for b in listed if b["this_node"]] == [("10.0.0.14", 25)]
    assert "is more than the nominal weight, 100" in operator.lbctl("b4", "backend", "weight", "101", code=1)
    assert "web is not a service of this node; it has echo" in operator.lbctl(
        "b4", "backend", "weight", "1", "--service", "web", code=1
    )
    operator.lbctl("b4", "backend", "weight", "nominal")
    wait_for(lambda: operator.share("b4", "b1") == ("up", 100, 100), "the old weight")


def test_the_disable_file_takes_the_weight_and_not_the_route(operator: Operator) -> None:
    operator.configure(("      fall: 6", "      disable_file: /run/anylb/disabled\n      fall: 6"))
    operator.reload("b1")
    began = time.monotonic()
    file = operator.cluster.lab.root("b1") / "run/anylb/disabled"
    file.touch()
    wait_for(lambda: operator.share("b1", "b2") == ("up", 100, 0), "weight 0")
    assert operator.status("b1")["services"][0]["why"] == "disabled: /run/anylb/disabled exists"
    file.unlink()
    wait_for(lambda: operator.share("b1", "b2") == ("up", 100, 100), "the weight to be back")
    assert operator.history.changes(began) == []


def test_clients_on_a_node_reach_its_own_server_alone(operator: Operator) -> None:
    """Which the status says while that server is down or draining; all other clients are served."""
    code = f"import socket; s = socket.create_connection(('{VIP}', {PORT})); s.sendall(b'1\\n'); print(s.recv(9))"
    line = f"clients on this node itself reach {VIP} at its own server only, which is {{}}: the VIP is on lo"

    def at_b1() -> str:
        done = operator.cluster.lab.exec("b1", [sys.executable, "-c", code], check=False)
        return (done.stdout or done.stderr).splitlines()[-1]

    def shown() -> str | None:
        return operator.status("b1")["services"][0]["local_clients"]

    assert at_b1() == r"b'b1 1\n'"
    assert shown() is None
    operator.lbctl("b1", "backend", "drain")
    wait_for(lambda: shown() == line.format("draining"), "the line for a drain")
    assert at_b1() == r"b'b1 1\n'", "its server takes what its own kernel gives it"
    operator.lbctl("b1", "backend", "undrain")
    operator.cluster.stop("b1", "server")
    wait_for(lambda: shown() == line.format("unhealthy"), "the line for a server that is down")
    assert at_b1() == "ConnectionRefusedError: [Errno 111] Connection refused"
    assert f"echo: {line.format('unhealthy')}" in " ".join(operator.lbctl("b1", "status").split())
    wait_for(lambda: operator.cluster.tables_agree(takers=("b2", "b3", "b4")), "all rows to be written")
    others = operator.cluster.connect_many(20)
    assert {server_of(connection) for connection in others} <= {"b2", "b3", "b4"}
    operator.cluster.start("b1", "server")
    wait_for(lambda: shown() is None, "the line to end")
    for connection in others:
        connection.close()


@pytest.mark.parametrize("policy", ["withdraw", "fail_open"])
def test_no_healthy_server(operator: Operator, policy: str) -> None:
    """Each policy is the other's control."""
    operator.configure(("forward: l2", f"forward: l2\n    when_unhealthy: {policy}"))
    operator.reload(*FOUR)
    for node in FOUR:
        operator.cluster.stop(node, "server")
    wait_for(lambda: all(not operator.status(n)["services"][0]["taken"] for n in FOUR), "all to see all unhealthy")
    if policy == "withdraw":
        wait_for(lambda: operator.next_hops() == set(), "the VIP to be withdrawn everywhere")
    else:
        wait_for(lambda: operator.status("b1")["vips"][0]["why"] == "no member is healthy: failing open", "the reason")
        assert operator.next_hops() == set(FOUR)
    for node in FOUR:
        operator.cluster.start(node, "server")
    wait_for(lambda: all(operator.status(n)["services"][0]["healthy"] for n in FOUR), "all healthy")
    operator.settle()
    for connection in operator.cluster.connect_many(40):
        connection.close()


def test_change_with_a_new_vip_and_peer_returns_or_is_confirmed(operator: Operator) -> None:
    """One reload takes all of lb.yml; a change without confirmation is taken back, also if the agent is killed."""
    with ChangingNode(operator.cluster, operator.text) as node:
        connections, session = operator.cluster.connect_many(40), node.session()
        assert node.config("diff") == ""
        node.file.write_text(node.changed)
        assert {line.split(":")[0] for line in node.config("diff", code=1).splitlines()} == {
            "+ services[second]",
            "+ bgp.peers[10.0.0.15]",
        }
        assert "ExaBGP: begin the session to 10.0.0.15" in node.config("apply", "--dry-run")
        assert node.has_none(), "a dry run changes nothing"

        assert "returns in 600 s unless" in node.config("apply", "--timeout", "10m")
        wait_for(node.has_second, "the new VIP is announced, and the new peer is up")
        node.kill_agent()
        node.start_agent()
        assert "a change waits for its confirmation" in node.problems(), "the deadline has outlived the agent"
        assert "an earlier change waits" in operator.cluster.lbctl(NODE, "reload", code=1)
        node.kill_agent()
        node.bring_deadline_near(10)
        node.start_agent()
        wait_for(node.has_none, "neither of them after the deadline")
        wait_for(lambda: node.file.read_text() == operator.text, "the earlier text in lb.yml")
        assert (node.folder / "lb.yml.rejected").read_text() == node.changed

        node.file.write_text(node.changed)
        wait_for(lambda: "differs from what runs by 2 changes" in node.problems(), "the line about lb.yml")
        node.config("apply", "--timeout", "10m")
        assert node.config("confirm") == "confirmed\n"
        assert "no change waits" in node.config("confirm", code=1)
        wait_for(node.has_second, "both")
        wait_for(lambda: not node.problems(), "no problem")
        node.file.write_text(node.changed.replace("10.0.0.15, as: 65002", "10.0.0.15, as: 0"))
        assert "0 is not in 1-4294967294" in operator.cluster.lbctl(NODE, "reload", code=1)
        wait_for(lambda: "0 is not in 1-4294967294" in node.problems(), "the refusal among the problems")
        assert node.has_second(), "a file that is refused changes nothing"
        assert "the previous configuration runs" in node.config("undo")
        wait_for(node.has_none, "neither of them after undo")

        assert node.session() == session, "the session of the peer that did not change is the same"
        for connection in connections:
            server_of(connection)
            connection.close()
