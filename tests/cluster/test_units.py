# SPDX-License-Identifier: Apache-2.0
"""The units under a real systemd, in a cluster whose other nodes run the same daemons without any.

client ── router (BIRD) ── segment ──┬── b1 … b4, each with ExaBGP, relay, agent and echo server
                                     └── b6, echo server, and beside it a systemd with our units
"""

import json
from collections.abc import Iterator

import pytest
from support.cluster_lab import FOUR, TOPOLOGY, ClusterLab, cluster_lab
from support.systemd_machine import UNITS, SystemdMachine, systemd_machine
from support.waiting import wait_for

from topology.demo.cluster import VIP

pytestmark = pytest.mark.lab


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
        "etc/anylb/lb.yml": config.replace("type: tcp", "type: exec\n      command: [/bin/true]\n      user: nobody"),
        "etc/systemd/system/lb-agent.service.d/exec-check.conf": (UNITS / "exec-check.conf").read_text(),
    }
    with systemd_machine(cluster.lab.nodes["b6"].pid, files) as booted:
        wait_for(lambda: "b6" in cluster.next_hops(), "the units to announce the VIP")
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
    walk = machine.run("lbctl", "explain", f"tcp,10.1.1.9:1,{VIP}:7000", "--live", "-o", "json")
    assert json.loads(walk)["walks"][0]["steps"][0]["chain"]
    assert machine.run("cat", "/proc/sys/net/ipv4/conf/all/arp_ignore") == "1\n"
    for daemon in ("bgp.exabgp.connect", "relay.pyz"):
        assert machine.run("pgrep", "--uid=anylb-bgp", "--full", daemon), "it has dropped its privileges"
    machine.run("systemctl", "reload", "lb-bgp", "lb-agent")
    assert machine.run("stat", "--format=%a %G", "/run/anylb-bgp") == "1770 anylb-bgp\n", "systemd leaves it alone"
    machine.run("lbctl", "deny", "add", "192.0.2.0/24")
    machine.run("systemctl", "restart", "lb-agent")
    wait_for(lambda: "192.0.2.0/24" in machine.run("lbctl", "deny", "list", code=None), "the agent to be back")
    wait_for(lambda: "b6" in cluster.next_hops(), "the agent to announce again")
    problems = json.loads(machine.run("lbctl", "status", "-o", "json"))["problems"]
    assert not [line for line in problems if "permitted" in line or "denied" in line or "read-only" in line.lower()]
