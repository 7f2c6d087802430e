# SPDX-License-Identifier: Apache-2.0
"""lbctl doctor's judgment: each fault alone is found with its next step, and a good machine has none."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from agent.doctor.facts import InterfaceFacts, MachineFacts
from agent.doctor.findings import Finding, State, findings
from agent.doctor.machine import kernel_of, read_machine
from agent.model import Port

VIP = ip_address("10.99.0.1")
ETH1 = InterfaceFacts(True, True, 1500, False, False, False, 1, 2)
GOOD = MachineFacts(
    root=True,
    kernel=(6, 12),
    jit=True,
    bpf_file_system=True,
    interfaces={"eth1": ETH1},
    vips_here={VIP: True},
    listening={"web": True},
    clock_synchronized=True,
    free={"/var/lib/anylb": 10**10},
    memory_available=10**10,
)


def bad(machine: MachineFacts) -> list[Finding]:
    return [one for one in findings(machine) if one.state != State.OK]


def test_a_good_machine_has_no_fault() -> None:
    assert bad(GOOD) == []
    assert {one.subject for one in findings(GOOD)} >= {
        "kernel",
        "BPF",
        "interface eth1",
        "service web",
        "clock",
        "room",
    }


def interface(**change: Any) -> MachineFacts:
    return replace(GOOD, interfaces={"eth1": replace(ETH1, **change)})


@pytest.mark.parametrize(
    ("machine", "subject", "state", "step"),
    [
        (replace(GOOD, kernel=(5, 10)), "kernel", State.FAILED, "upgrade it"),
        (replace(GOOD, kernel=None), "kernel", State.SKIPPED, "6.1"),
        (replace(GOOD, jit=False), "BPF", State.WARNING, "sysctl net.core.bpf_jit_enable=1"),
        (replace(GOOD, bpf_file_system=False), "BPF file system", State.FAILED, "mount -t bpf"),
        (interface(exists=False), "interface eth1", State.FAILED, "node.interface"),
        (interface(up=False), "interface eth1", State.FAILED, "ip link set eth1 up"),
        (interface(mtu=9000), "interface eth1", State.WARNING, "mtu 3498"),
        (interface(mtu=1300), "interface eth1", State.WARNING, "mtu 1308"),
        (interface(large_receive=True), "interface eth1", State.FAILED, "lro off"),
        (interface(strips_tags=True), "interface eth1", State.WARNING, "rxvlan off"),
        (interface(strict_filter=True), "interface eth1", State.WARNING, "node.rp_filter"),
        (interface(arp_ignore=0), "interface eth1", State.FAILED, "arp_ignore=1"),
        (interface(arp_announce=1), "interface eth1", State.FAILED, "arp_announce=2"),
        (replace(GOOD, vips_here={VIP: False}), "VIP 10.99.0.1", State.FAILED, "start the agent"),
        (replace(GOOD, listening={"web": False}), "service web", State.FAILED, "start it there"),
        (replace(GOOD, clock_synchronized=False), "clock", State.WARNING, "timedatectl"),
        (replace(GOOD, free={"/run/anylb": 1000}), "disk of /run/anylb", State.FAILED, "free 50 MB"),
        (replace(GOOD, memory_available=10**8), "memory", State.WARNING, "add memory"),
        (replace(GOOD, root=False), "rights", State.SKIPPED, "as root"),
    ],
)
def test_each_fault_has_its_next_step(machine: MachineFacts, subject: str, state: State, step: str) -> None:
    [found] = bad(machine)
    assert (found.subject, found.state) == (subject, state)
    assert step in found.step


def test_facts_of_this_machine_are_read() -> None:
    """On the interface lo, whose facts are known."""
    ports: dict[str, Port | None] = {"any": None, "no one": Port("tcp", 1)}
    found = read_machine(["lo", "nonesuch"], [ip_address("127.0.0.1"), ip_address("192.0.2.254")], ports)
    assert found.interfaces["lo"].up is True
    assert found.interfaces["lo"].mtu == 65_536
    assert not found.interfaces["nonesuch"].exists
    assert list(found.vips_here.values()) == [True, False]
    assert found.listening == {"any": None, "no one": False}
    assert found.kernel is not None
    assert found.memory_available


@pytest.mark.parametrize(
    ("release", "kernel"), [("6.1.0-18-amd64", (6, 1)), ("6.12", (6, 12)), ("odd", None), ("6.x.1", None)]
)
def test_kernel_releases_are_read(release: str, kernel: tuple[int, int] | None) -> None:
    assert kernel_of(release) == kernel
