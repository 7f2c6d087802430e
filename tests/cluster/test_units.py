# SPDX-License-Identifier: Apache-2.0
"""The units under a real systemd, in a cluster whose other nodes run the same daemons without any.

client ── router (BIRD) ── segment ──┬── b1 … b4, each with ExaBGP, relay, agent and echo server
                                     └── b6, echo server, and beside it a systemd with our units
"""

import contextlib
import json
import re
import signal
import socket
from collections.abc import Iterator

import pytest
from support import instance_units
from support.cluster_lab import FOUR, TOPOLOGY, ClusterLab, cluster_lab, server_of
from support.instance_servers import Load
from support.systemd_machine import UNITS, SystemdMachine, systemd_machine
from support.waiting import wait_for

from topology.demo.cluster import VIP
from topology.lab.netns import inside_net

pytestmark = pytest.mark.lab
MANY = 120
"""Connections: so many that it is never by chance that a node has none."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterLab]:
    with cluster_lab("units-test") as made:
        yield made


@pytest.fixture(scope="module")
def machine(cluster: ClusterLab) -> Iterator[SystemdMachine]:
    """Boot a systemd on b6, with our units and a health check of type exec, and wait until it is a member."""
    config = (TOPOLOGY / "lb.yml").read_text()
    assert "type: tcp" in config
    files = {
        **instance_units.files(),
        "etc/anylb/lb.yml": config.replace("type: tcp", "type: exec\n      command: [/bin/true]\n      user: nobody"),
        **{
            f"etc/systemd/system/lb-agent.service.d/{name}": (UNITS / name).read_text()
            for name in ("exec-check.conf", "instances.conf")
        },
    }
    with systemd_machine(cluster.lab.nodes["b6"].pid, files) as booted:
        wait_for(lambda: "b6" in cluster.next_hops(), lambda: f"the units to announce the VIP:\n{booted.journal()}")
        yield booted


def test_units_do_under_systemd_what_the_daemons_do_without(cluster: ClusterLab, machine: SystemdMachine) -> None:
    """All that the units' sandbox could forbid: XDP, tc and pins, reading tables back, sysctls, packet sockets, the
    relay's socket, dropping privileges, programs of health checks, signals at a reload, stale pins at a restart."""
    nodes = (*FOUR, "b6")
    wait_for(lambda: cluster.tables_agree(FOUR, nodes), "the others to have equal tables with b6")
    wait_for(lambda: json.loads(machine.run("lbctl", "status", "-o", "json"))["ready"], "b6 to be ready")
    status = json.loads(machine.run("lbctl", "status", "-o", "json"))
    assert {m["address"] for m in status["members"]} == {cluster.addresses[node] for node in nodes}
    assert status["xdp"]["attached"] is True
    assert "eth1" in str(status["egress"]), status["egress"]
    wait_for(lambda: walks(machine), "a walk, on which the first node answers within its second")
    assert machine.run("cat", "/proc/sys/net/ipv4/conf/all/arp_ignore") == "1\n"
    for daemon in ("bgp.exabgp.connect", "relay.pyz"):
        assert machine.run("pgrep", "--uid=anylb-bgp", "--full", daemon), "it has dropped its privileges"
    lines = map(json.loads, machine.run("journalctl", "--unit=lb-bgp", "--output=json").splitlines())
    logged = {(line["MESSAGE"].split()[0], line["PRIORITY"]) for line in lines if line["_COMM"] != "systemd"}
    assert ("relay", "6") in logged, "sessions that are up"
    assert not logged & {(source, "6") for source in ("processes", "configuration", "reactor", "welcome")}, logged
    machine.run("systemctl", "reload", "lb-bgp", "lb-agent")
    assert machine.run("stat", "--format=%a %G", "/run/anylb-bgp") == "1770 anylb-bgp\n", "systemd leaves it alone"
    _take_a_change_of_bgp_and_undo_it(machine)
    machine.run("lbctl", "deny", "add", "192.0.2.0/24")
    machine.run("systemctl", "restart", "lb-agent")
    wait_for(lambda: "192.0.2.0/24" in machine.run("lbctl", "deny", "list", code=None), "the agent to be back")
    wait_for(lambda: "b6" in cluster.next_hops(), "the agent to announce again")
    problems = json.loads(machine.run("lbctl", "status", "-o", "json"))["problems"]
    assert not [line for line in problems if "permitted" in line or "denied" in line or "read-only" in line.lower()]


def walks(machine: SystemdMachine) -> bool:
    """Return whether the node knows what it does with a packet."""
    walk = machine.run("lbctl", "explain", f"tcp,10.1.1.9:1,{VIP}:7000", "--live", "-o", "json")
    return bool(json.loads(walk)["walks"][0]["steps"][0]["chain"])


@pytest.fixture(scope="class")
def instances(machine: SystemdMachine) -> Iterator[SystemdMachine]:
    """Give b6's agent services whose servers are units, until the tests of these are over."""
    machine.run("cp", "/etc/anylb/lb.yml", "/etc/lb.yml.before")
    machine.run("sed", "-i", "/^services:/r /etc/instance-services.yml", "/etc/anylb/lb.yml")
    machine.run("systemctl", "reload", "lb-agent")
    yield machine
    machine.run("systemctl", "stop", "web@a", "web@b", "activated.socket", "activated", "spare")
    machine.run("cp", "/etc/lb.yml.before", "/etc/anylb/lb.yml")
    machine.run("systemctl", "reload", "lb-agent")


def states(machine: SystemdMachine, service: str) -> dict[str, str]:
    """Return the states of a service's instances, by unit."""
    services = json.loads(machine.run("lbctl", "instance", "list", "-o", "json"))["services"]
    found = next(one for one in services if one["name"] == service)
    return {one["name"].removesuffix(".service"): one["state"] for one in found["instances"]}


def answer(cluster: ClusterLab) -> str:
    """Return the server of the socket unit's port that answers."""
    with (
        inside_net(cluster.lab.nodes["b6"].pid),
        socket.create_connection((instance_units.VIP, instance_units.SOCKET_PORT), timeout=30) as connection,
    ):
        return connection.recv(100).decode()


class TestServersThatAreUnits:
    def test_nginx_units_are_upgraded_and_restarted_without_a_loss(
        self, cluster: ClusterLab, instances: SystemdMachine
    ) -> None:
        """`web@a` gets another binary by USR2: the new master inherits the listeners. systemd restarts it later."""
        machine = instances
        machine.run("systemctl", "start", "web@a", "web@b")
        wait_for(lambda: states(machine, "web") == {"web@a": "active", "web@b": "standby"})
        old = machine.run("cat", "/run/web-a.pid").strip()
        with inside_net(cluster.lab.nodes["b6"].pid):
            load = Load(instance_units.VIP, "GET / HTTP/1.0\r\n\r\n")
        with load:
            machine.run("kill", "-USR2", old)
            wait_for(lambda: machine.run("cat", "/run/web-a.pid.oldbin", code=None).strip() == old, "the new master")
            wait_for(lambda: machine.run("cat", "/run/web-a.pid", code=None).strip() not in ("", old))
            load.wait_for_more(100)
            machine.run("kill", "-QUIT", old)
            wait_for(lambda: not machine.run("pgrep", "--pidfile", "/run/web-a.pid.oldbin", code=None))
            load.wait_for_more(100)
            wait_for(lambda: states(machine, "web") == {"web@a": "active", "web@b": "standby"}, "both to be known")
            machine.run("systemctl", "restart", "web@a")
            load.wait_for_more(100)
            wait_for(lambda: states(machine, "web") == {"web@a": "active", "web@b": "standby"})
        print(load)
        assert (load.refused, load.broken) == (0, 0)

    def test_a_socket_units_service_is_an_instance_while_it_runs(
        self, cluster: ClusterLab, instances: SystemdMachine
    ) -> None:
        machine = instances
        machine.run("systemctl", "start", "activated.socket")
        assert answer(cluster) == "activated", "systemd starts it"
        wait_for(lambda: states(machine, "activated") == {"activated": "active"})
        machine.run("systemctl", "start", "spare")
        wait_for(lambda: states(machine, "activated") == {"activated": "active", "spare": "standby"})
        assert answer(cluster) == "activated"
        machine.run("systemctl", "kill", "--signal=KILL", "activated.service")
        wait_for(lambda: states(machine, "activated") == {"spare": "active"})
        assert {answer(cluster) for _ in range(20)} == {"spare"}, "systemd has the other's listener open"
        assert machine.run("systemctl", "is-active", "activated.socket") == "active\n"
        problems = json.loads(machine.run("lbctl", "status", "-o", "json"))["problems"]
        assert not [line for line in problems if line.startswith("activated: a process that is no instance")]
        machine.run("systemctl", "start", "activated.service")
        wait_for(lambda: states(machine, "activated") == {"activated": "active", "spare": "standby"})
        assert answer(cluster) == "activated"


def _take_a_change_of_bgp_and_undo_it(machine: SystemdMachine) -> None:
    """The agent's sandbox lets it hand ExaBGP a new configuration, and put an earlier text back into lb.yml."""

    def has_peer(file: str) -> bool:
        return "10.0.0.99" in machine.run("cat", file)

    added = r"s/^  peers:/  peers:\n    - {address: 10.0.0.99, as: 65009}/"
    machine.run("sed", "-i", added, "/etc/anylb/lb.yml")
    machine.run("systemctl", "reload", "lb-agent")
    wait_for(lambda: has_peer("/run/anylb-bgp/exabgp.conf"), "ExaBGP's new configuration")
    warnings = ("journalctl", "--unit=lb-bgp", "--priority=4")
    wait_for(lambda: "neighbor 10.0.0.99" in machine.run(*warnings), "a warning for the peer that does not answer")
    machine.run("lbctl", "config", "undo")
    assert not has_peer("/run/anylb-bgp/exabgp.conf")
    assert not has_peer("/etc/anylb/lb.yml")
    assert has_peer("/etc/anylb/lb.yml.rejected")


PROPERTIES = ("ActiveState", "MainPID", "NRestarts", "StatusText", "Result")


def shown(machine: SystemdMachine, unit: str = "lb-agent") -> dict[str, str]:
    """Return what systemd knows of a unit."""
    text = machine.run("systemctl", "show", unit, *(f"--property={name}" for name in PROPERTIES))
    return dict(line.split("=", 1) for line in text.splitlines())


def replaced(machine: SystemdMachine, number: signal.Signals) -> None:
    """End the agent by a signal, and wait until the one that systemd starts serves.

    Until that one has begun, systemd shows the status line of the one that ended.
    """
    former = shown(machine)
    machine.run("kill", f"-{int(number)}", former["MainPID"])
    wait_for(lambda: shown(machine)["MainPID"] not in ("0", former["MainPID"]), f"another agent after {number.name}")
    assert int(shown(machine)["NRestarts"]) > int(former["NRestarts"]), "systemd has started it"
    wait_for(lambda: serves(machine), "it to serve")


def serves(machine: SystemdMachine) -> bool:
    return shown(machine)["StatusText"].startswith("serving 1 service with 5 members")


@contextlib.contextmanager
def held(cluster: ClusterLab) -> Iterator[None]:
    """Hold connections, of which b6 has some, and check afterwards that none is broken."""
    held: list[socket.socket] = []
    try:
        held += cluster.connect_many(MANY)
        before = [server_of(one) for one in held]
        assert "b6" in before, "the test needs some on b6"
        yield
        assert [server_of(one) for one in held] == before
    finally:
        for one in held:
            one.close()


def test_systemd_knows_that_it_serves_and_replaces_what_hangs_or_dies(
    cluster: ClusterLab, machine: SystemdMachine
) -> None:
    """The watchdog, a crash, a restart and a reload break no connection; neither daemon's route is withdrawn for it."""
    wait_for(lambda: serves(machine), "the status line")
    wait_for(lambda: cluster.tables_agree(FOUR, (*FOUR, "b6")), "all to serve")
    with held(cluster):
        replaced(machine, signal.SIGSTOP)
        wait_for(lambda: "Failed with result 'watchdog'" in machine.journal(), "the cause in the journal")
        # The watchdog takes 7 of the 10 s after which the relay withdraws: the rest may not suffice on a busy machine.
        wait_for(lambda: "b6" in cluster.next_hops(), "b6 to announce")
        five = (*FOUR, "b6")
        settled = lambda: "b6" in cluster.next_hops() and cluster.tables_agree(FOUR, five)  # noqa: E731
        cluster.replace_agent(lambda: replaced(machine, signal.SIGSEGV), settled)
        assert "b6" in cluster.next_hops(), "it was back before the relay counted it as gone"
        pid = shown(machine)["MainPID"]
        machine.run("systemctl", "reload", "lb-agent")
        assert shown(machine)["MainPID"] == pid
        assert shown(machine)["StatusText"].startswith("serving 1 service"), "it returns when the new agent serves"
        machine.run("systemctl", "restart", "lb-bgp", "lb-agent")
        assert shown(machine)["StatusText"].startswith("serving 1 service"), "it returns when the data path serves"
        wait_for(lambda: serves(machine), "all members to be known again")
        wait_for(lambda: "b6" in cluster.next_hops(), "b6 to announce")
        wait_for(lambda: "session up" in shown(machine, "lb-bgp")["StatusText"], "the speaker's line")


def test_configuration_with_an_error_is_shown_and_not_retried(cluster: ClusterLab, machine: SystemdMachine) -> None:
    """The node forwards as before, by its data path, and takes part again when the file is corrected."""
    file, link = "/etc/anylb/lb.yml", ["ip", "-j", "link", "show", "eth1"]
    program = machine.run(*link)
    with held(cluster):
        machine.run("sed", "-i", "s/^cluster: .*/cluster: none/", file)
        machine.run("systemctl", "reload", "lb-agent", code=None)
        wait_for(lambda: "lb.yml was refused" in shown(machine)["StatusText"], "the refusal in the status")
        machine.run("systemctl", "restart", "lb-agent", code=None)
        wait_for(lambda: shown(machine)["ActiveState"] == "failed", "no further retry")
        status = machine.run("systemctl", "status", "--no-pager", "lb-agent", code=None)
        assert re.search(r'Status: "not started: /etc/anylb/lb.yml:2:10: cluster: ', status), status
        assert "lbctl: not started; correct it, then start this service again" in status
        assert json.loads(machine.run(*link))[0]["xdp"] == json.loads(program)[0]["xdp"], "the data path goes on"
        machine.run("sed", "-i", "s/^cluster: .*/cluster: 4242/", file)
        machine.run("systemctl", "start", "lb-agent")
        wait_for(lambda: "b6" in cluster.next_hops(), "b6 to announce")


def test_reboot_withdraws_first_and_the_node_comes_back_by_itself(cluster: ClusterLab, machine: SystemdMachine) -> None:
    """What is gone: the program, the pins, /run and the VIP on lo. Other nodes' connections live, also those whose
    packets came by way of b6."""
    held = cluster.connect_many(MANY)
    try:
        others = {one: server for one in held if (server := server_of(one)) != "b6"}
        assert forwarded(machine) > 0, "some of them come by way of b6"
        machine.shut_down_to_reboot()
        wait_for(lambda: "b6" not in cluster.next_hops(), "the VIP to be withdrawn")
        assert {one: server_of(one) for one in others} == others
        machine.boot_again()
        wait_for(lambda: "b6" in cluster.next_hops(), "b6 to announce again")
        wait_for(lambda: cluster.tables_agree(FOUR, (*FOUR, "b6")), "all to serve")
        assert {one: server_of(one) for one in others} == others
        assert forwarded(machine) > 0, "it forwards again"
    finally:
        for one in held:
            one.close()


def forwarded(machine: SystemdMachine) -> int:
    """Return how many packets the machine's program has forwarded."""
    services = json.loads(machine.run("lbctl", "status", "-o", "json"))["services"]
    return sum(count for one in services for name, count in one["counters"].items() if name.startswith("forward_"))


def test_unit_gets_a_secret_from_systemd(machine: SystemdMachine) -> None:
    unit, secret = "credential-test", "cluster.key:/etc/anylb/cluster.key"
    machine.run("lbctl", "key", "new")
    file = f"key_file: /run/credentials/{unit}.service/cluster.key"
    machine.run("sh", "-c", f"sed 's|key: none.*|{file}|' /etc/anylb/lb.yml >/etc/anylb/with-key.yml")
    run = ["systemd-run", f"--unit={unit}", "--wait", "--pipe", "--quiet"]
    check = ["lbctl", "config", "check", "-c", "/etc/anylb/with-key.yml"]
    assert "with-key.yml: valid" in machine.run(*run, f"--property=LoadCredential={secret}", *check)
    machine.run(*run, *check, code=1)  # without it


def test_a_stop_withdraws_first_and_an_uninstallation_leaves_nothing(
    cluster: ClusterLab, machine: SystemdMachine
) -> None:
    keys = [f"net.ipv4.conf.{name}.{key}" for name in ("all", "eth1") for key in ("arp_ignore", "arp_announce")]

    def settings() -> str:
        return machine.run("sysctl", "--values", *keys)

    assert settings() == "1\n2\n1\n2\n"
    assert VIP in machine.run("ip", "address", "show", "lo")
    machine.run("lbctl", "agent", "uninstall", code=1)  # the agent runs
    machine.run("systemctl", "stop", "lb-agent", "lb-bgp")
    wait_for(lambda: cluster.next_hops() == set(FOUR), "the router to know")
    lines = ("the agent stops", "Stopped lb-agent", "Stopping lb-bgp")
    wait_for(lambda: all(line in machine.journal() for line in lines), "the end of both in the journal")
    journal = machine.journal()
    assert journal.rindex("the agent stops") < journal.rindex("Stopped lb-agent"), journal[-2000:]
    assert journal.rindex("Stopped lb-agent") < journal.rindex("Stopping lb-bgp"), journal[-2000:]
    machine.run("mount", "--options=remount,bind,rw", "/proc/sys")  # a container's are read-only outside the units
    removed = machine.run("lbctl", "agent", "uninstall")
    assert f"removed or set back: {VIP} on lo\n" in removed
    assert settings() == "0\n0\n0\n0\n"
    assert VIP not in machine.run("ip", "address", "show", "lo")
    assert "xdp" not in machine.run("ip", "link", "show", "eth1")
    assert "clsact" not in machine.run("tc", "qdisc", "show", "dev", "eth1")
    assert "anylb" not in machine.run("ls", "-A", "/sys/fs/bpf")
    assert machine.run("sh", "-c", "ls -d /run/anylb /var/cache/anylb 2>/dev/null || true") == ""
    assert machine.run("lbctl", "agent", "uninstall") == "there was nothing\n"
