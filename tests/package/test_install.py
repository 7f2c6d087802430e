# SPDX-License-Identifier: Apache-2.0
"""The package on a machine with systemd, in a cluster whose other nodes run the daemons of this tree: installed,
upgraded, removed, purged. The machine is an overlay of this one, so the Debian packages that it needs are there.

client ── router (BIRD) ── segment ──┬── b1 … b4, each with ExaBGP, relay, agent and echo server
                                     └── b6, echo server, and beside it a systemd that has the package
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster_lab import FOUR, TOPOLOGY, ClusterLab, cluster_lab, server_of, server_or_none
from support.systemd_machine import SystemdMachine, systemd_machine
from support.waiting import wait_for

from package.build import build
from topology.demo.cluster import VIP

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif("ANYLB_DEB" not in os.environ, reason="downloads Python packages: make proof"),
]
NODES = (*FOUR, "b6")
KEYS = [
    f"net.ipv4.conf.{name}.{key}" for name in ("all", "eth1") for key in ("arp_ignore", "arp_announce", "rp_filter")
]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    for revision in ("+old", "+updated"):
        build(folder, revision, "none")
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterLab]:
    with cluster_lab("install-test") as made:
        yield made


@pytest.fixture(scope="module")
def machine(cluster: ClusterLab, packages: Path) -> Iterator[SystemdMachine]:
    with systemd_machine(cluster.lab.nodes["b6"].pid, {}, packages) as booted:
        booted.run("mount", "--options=remount,bind,rw", "/proc/sys")  # a container's are read-only
        booted.run("rm", "-rf", "/etc/anylb", "/opt/anylb", "/var/lib/anylb", "/usr/local/bin/lbctl")
        yield booted


def facts(machine: SystemdMachine) -> str:
    """Return what a package may leave behind."""
    commands = "ip -brief address show lo; tc qdisc show dev eth1; ip rule; ip link show eth1; ls /sys/fs/bpf; " + (
        f"ls -d /run/anylb* /opt/* /etc/anylb /var/*/anylb 2>/dev/null; sysctl {' '.join(KEYS)}"
    )
    return machine.run("sh", "-c", commands, code=None)


def test_install_upgrade_remove_purge(cluster: ClusterLab, machine: SystemdMachine) -> None:
    before = facts(machine)
    machine.run("sh", "-c", "dpkg --install /mnt/anylb_*+old_*.deb")
    assert machine.run("systemctl", "is-enabled", "lb-agent", "lb-bgp", code=None).split() == ["disabled"] * 2
    assert "cluster: 0 is not in" in machine.run("sh", "-c", "lbctl config check 2>&1", code=1)

    config = (TOPOLOGY / "lb.yml").read_text()
    machine.run("sh", "-c", f"cat >/etc/anylb/lb.yml <<'END'\n{config}END")
    machine.run("systemctl", "enable", "--now", "lb-bgp", "lb-agent")
    wait_for(lambda: "b6" in cluster.next_hops() and cluster.tables_agree(FOUR, NODES), "b6 to be a member")
    held = cluster.connect_many(120)
    servers = [server_of(one) for one in held]
    assert "b6" in servers

    pid = machine.run("systemctl", "show", "lb-agent", "--property=MainPID")
    machine.run("sh", "-c", "dpkg --install --force-confold /mnt/anylb_*+updated_*.deb")
    assert machine.run("systemctl", "show", "lb-agent", "--property=MainPID") != pid
    wait_for(lambda: "b6" in cluster.next_hops() and cluster.tables_agree(FOUR, NODES), "b6 to be a member again")
    assert [server_of(one) for one in held] == servers, "an upgrade breaks nothing"

    machine.run("dpkg", "--remove", "anylb")
    wait_for(lambda: cluster.next_hops() == set(FOUR), "the routers to know")
    others = [(one, server) for one, server in zip(held, servers, strict=True) if server != "b6"]
    assert [server_or_none(one) for one, _ in others] == [server for _, server in others]
    for one in held:
        one.close()
    left = facts(machine)
    assert VIP not in left
    assert "/etc/anylb" in left, "the configuration stays until a purge"

    machine.run("dpkg", "--purge", "anylb")
    assert facts(machine) == before
    assert "anylb" not in machine.run("cat", "/etc/passwd", "/etc/group")
    assert machine.run("systemctl", "list-unit-files", "lb-*", code=None).endswith("0 unit files listed.\n")
