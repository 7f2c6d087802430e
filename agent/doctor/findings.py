# SPDX-License-Identifier: Apache-2.0
"""What is well with this machine and what is not, each with its next step. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from agent.doctor.facts import InterfaceFacts, MachineFacts

OLDEST_KERNEL: Final = (6, 1)
MIN_DISK: Final = 50_000_000
MIN_MEMORY: Final = 200_000_000
"""Bytes: a compiling child takes 132 MB for a second."""
NATIVE_MTU: Final = 3_498
"""Above it most drivers refuse native XDP with pages of 4 KiB (veth among them)."""
TUNNEL_MTU: Final = 1_308
"""What a path must carry for IPv6 services with `forward: gue` over IPv4."""


class State(StrEnum):
    """How a finding is: `skipped` is what could not be looked at."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `step` is what to do about it, "" if nothing."""

    subject: str
    state: State
    text: str
    step: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return asdict(self)


def findings(machine: MachineFacts) -> Iterator[Finding]:
    """Yield what was found on the machine, in the order in which things depend on each other."""
    if not machine.root:
        yield Finding("rights", State.SKIPPED, "not root: some of it cannot be read", "run lbctl as root")
    yield _kernel(machine)
    yield from _bpf(machine)
    for name, interface in machine.interfaces.items():
        yield from _interface(name, interface)
    for vip, here in machine.vips_here.items():
        if here:
            yield Finding(f"VIP {vip}", State.OK, "is on this machine")
        else:
            yield Finding(
                f"VIP {vip}", State.FAILED, "is on no interface of this machine: its kernel takes no connection to it",
                "start the agent, which puts it on lo; `journalctl -u lb-agent` says why it does not",
            )  # fmt: skip
    for service, listens in machine.listening.items():
        yield _listener(service, listens)
    yield _clock(machine.clock_synchronized)
    yield from _room(machine)


def _kernel(machine: MachineFacts) -> Finding:
    oldest = ".".join(map(str, OLDEST_KERNEL))
    if machine.kernel is None:
        return Finding("kernel", State.SKIPPED, "its version has an unknown form", f"see that it is {oldest} at least")
    found = ".".join(map(str, machine.kernel))
    if machine.kernel < OLDEST_KERNEL:
        return Finding("kernel", State.FAILED, f"{found} is older than {oldest}", "upgrade it: Debian 12 has 6.1")
    return Finding("kernel", State.OK, found)


def _bpf(machine: MachineFacts) -> Iterator[Finding]:
    if machine.jit is False:
        yield Finding(
            "BPF", State.WARNING, "programs are interpreted, several times as slow", "sysctl net.core.bpf_jit_enable=1"
        )
    elif machine.jit is None and machine.root:
        yield Finding("BPF", State.OK, "programs are always compiled")
    elif machine.jit:
        yield Finding("BPF", State.OK, "programs are compiled")
    if not machine.bpf_file_system:
        yield Finding(
            "BPF file system", State.FAILED, "is not mounted: nothing outlives the agent",
            "mount -t bpf bpf /sys/fs/bpf (systemd does it at boot)",
        )  # fmt: skip


def _interface(name: str, facts: InterfaceFacts) -> Iterator[Finding]:
    subject = f"interface {name}"
    if not facts.exists:
        yield Finding(subject, State.FAILED, "does not exist", "correct node.interface in lb.yml, or create it")
        return
    faults = list(_interface_faults(subject, name, facts))
    yield from faults
    if not faults:
        yield Finding(subject, State.OK, f"up, MTU {facts.mtu}")


def _interface_faults(subject: str, name: str, facts: InterfaceFacts) -> Iterator[Finding]:
    if facts.up is False:
        yield Finding(subject, State.FAILED, "is down", f"ip link set {name} up")
    if facts.mtu is not None and facts.mtu > NATIVE_MTU:
        yield Finding(
            subject, State.WARNING, f"MTU {facts.mtu}: most drivers refuse native XDP above {NATIVE_MTU}",
            f"see `lbctl status` (XDP native?); if it is generic: ip link set {name} mtu {NATIVE_MTU}",
        )  # fmt: skip
    if facts.mtu is not None and facts.mtu < TUNNEL_MTU:
        yield Finding(
            subject, State.WARNING, f"MTU {facts.mtu}: tunnels carry no IPv6 packet of 1,280 bytes",
            f"ip link set {name} mtu {TUNNEL_MTU} at least, and on the path",
        )  # fmt: skip
    if facts.large_receive:
        step = f"ethtool -K {name} lro off"
        yield Finding(subject, State.FAILED, "LRO is on, which native XDP excludes", step)
    if facts.strips_tags:
        yield Finding(
            subject, State.WARNING, "takes VLAN tags off before the program sees them",
            f"ethtool -K {name} rxvlan off, if tagged frames arrive there",
        )  # fmt: skip
    if facts.strict_filter:
        yield Finding(
            subject, State.WARNING, "a strict reverse path filter drops requests whose answers leave elsewhere",
            "node.rp_filter: loose (the default) has the agent make it loose",
        )  # fmt: skip
    for setting, value, wanted in (
        ("arp_ignore", facts.arp_ignore, 1),
        ("arp_announce", facts.arp_announce, 2),
    ):
        if value is not None and value < wanted:
            yield Finding(
                subject, State.FAILED, f"{setting} is {value}: this machine claims VIPs on the segment by ARP",
                f"start the agent, which sets it, or: sysctl net.ipv4.conf.{name}.{setting}={wanted}",
            )  # fmt: skip


def _listener(service: str, listens: bool | None) -> Finding:
    subject = f"service {service}"
    if listens is None:
        return Finding(subject, State.SKIPPED, "whether a server listens is not known: any port, NAT, or no right")
    if listens:
        return Finding(subject, State.OK, "a server listens on its port")
    return Finding(
        subject, State.FAILED, "no server listens on its port in the node's network namespace",
        "start it there; in a container: with the host's network",
    )  # fmt: skip


def _clock(synchronized: bool | None) -> Finding:
    if synchronized:
        return Finding("clock", State.OK, "is synchronized")
    if synchronized is None:
        return Finding("clock", State.SKIPPED, "cannot be read")
    return Finding(
        "clock", State.WARNING, "is not synchronized: times in logs, and ends of orders, differ between nodes",
        "apt-get install systemd-timesyncd, or chrony; `timedatectl` shows it",
    )  # fmt: skip


def _room(machine: MachineFacts) -> Iterator[Finding]:
    for folder, free in machine.free.items():
        if free < MIN_DISK:
            yield Finding(
                f"disk of {folder}", State.FAILED, f"{free / 1e6:.0f} MB are free: state is not kept over a restart",
                f"free {MIN_DISK / 1e6:.0f} MB there",
            )  # fmt: skip
    if machine.memory_available is not None and machine.memory_available < MIN_MEMORY:
        yield Finding(
            "memory", State.WARNING, f"{machine.memory_available / 1e6:.0f} MB are available",
            f"{MIN_MEMORY / 1e6:.0f} MB are needed while a program is compiled: stop something, or add memory",
        )  # fmt: skip
    elif machine.free and all(free >= MIN_DISK for free in machine.free.values()):
        yield Finding("room", State.OK, f"{min(machine.free.values()) / 1e9:.1f} GB of disk are free at least")
