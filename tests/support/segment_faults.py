# SPDX-License-Identifier: Apache-2.0
"""Faults of the nodes and the wire of segment.clab.yml, each undone at the end of its `with` block.

A lab's node cannot be started again once it is killed. So a loss of power is played inside the node: its wire is cut
first, then its processes die, and all that a boot would find empty is emptied: sockets, /run, pins, XDP, VIPs.

A filter is a classic BPF program of tc's at a port of the segment (or at a node's interface), before the bridge sees a
frame: as a fabric's filter, it changes no link.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address

from support.cluster_lab import VIP, ClusterLab
from support.waiting import wait_for

PORTS = {"b1": "eth1", "b2": "eth2", "b3": "eth3", "b4": "eth4", "b5": "eth5", "b6": "eth7"}
"""The ports of the segment, by node."""
DAEMONS = ("agent", "relay", "speaker", "server")
SWEEP = f"""
ip link set dev eth1 xdp off
ss -K --tcp src {VIP}
ip address del {VIP}/32 dev lo
rm -rf /run/anylb /sys/fs/bpf/anylb
tc qdisc del dev eth1 clsact
true
"""

Match = tuple[int, int, int]
"""Bytes of a frame: their offset, their number (1, 2 or 4), their value in network order."""
IPV4_UDP: tuple[Match, ...] = ((12, 2, 0x0800), (23, 1, 17))
_LOAD = {1: 48, 2: 40, 4: 32}
_JUMP_IF_EQUAL, _RETURN = 21, 6
_CONTINUE, _DROP = 0xFFFFFFFF, 2


def udp_to(port: int, destination: str | None = None) -> tuple[Match, ...]:
    """Match UDP over IPv4 to a port, of one address if one is given."""
    to = ((30, 4, int(IPv4Address(destination))),) if destination else ()
    return (*IPV4_UDP, (36, 2, port), *to)


def to_mac(mac: bytes) -> tuple[Match, ...]:
    """Match the frames to a MAC."""
    return ((0, 4, int.from_bytes(mac[:4])), (4, 2, int.from_bytes(mac[4:])))


def bytecode(matches: tuple[Match, ...]) -> str:
    """Return the program that drops what matches all of these, as tc reads it."""
    lines = []
    for number, (offset, size, value) in enumerate(matches):
        to_end = 2 * (len(matches) - number) - 1  # over the other matches, and the instruction that drops
        lines += [f"{_LOAD[size]} 0 0 {offset}", f"{_JUMP_IF_EQUAL} 0 {to_end} {value}"]
    lines += [f"{_RETURN} 0 0 {_DROP}", f"{_RETURN} 0 0 {_CONTINUE}"]
    return ",".join([str(len(lines)), *lines])


@contextmanager
def dropped(cluster: ClusterLab, places: dict[str, list[tuple[Match, ...]]], node: str = "segment") -> Iterator[None]:
    """Drop at interfaces of a node, where frames come in, what matches one of the given."""
    made = []
    try:
        for interface, filters in places.items():
            cluster.lab.exec(node, ["tc", "qdisc", "add", "dev", interface, "clsact"], check=False)
            for number, matches in enumerate(filters, 1):
                rule = ["dev", interface, "ingress", "protocol", "all", "pref", str(number)]
                cluster.lab.exec(node, ["tc", "filter", "add", *rule, "bpf", "da", "bytecode", bytecode(matches)])
                made.append(rule)
        yield
    finally:
        for rule in made:
            cluster.lab.exec(node, ["tc", "filter", "del", *rule])


@contextmanager
def cut_off(cluster: ClusterLab, node: str) -> Iterator[None]:
    """Have the segment deliver nothing to a node, and nothing of it; no link changes."""
    cluster.lab.exec("segment", ["ip", "link", "set", PORTS[node], "nomaster"])
    try:
        yield
    finally:
        cluster.lab.exec("segment", ["ip", "link", "set", PORTS[node], "master", "br0"])


@contextmanager
def isolated(cluster: ClusterLab, *nodes: str) -> Iterator[None]:
    """Have the segment pass nothing between these nodes; each still reaches the router."""
    for node in nodes:
        cluster.lab.exec("segment", ["bridge", "link", "set", "dev", PORTS[node], "isolated", "on"])
    try:
        yield
    finally:
        for node in nodes:
            cluster.lab.exec("segment", ["bridge", "link", "set", "dev", PORTS[node], "isolated", "off"])


@contextmanager
def without_power(cluster: ClusterLab, node: str) -> Iterator[None]:
    """Take a node's power; at the end of the block it boots."""
    with cut_off(cluster, node):
        end(cluster, node)
        yield
    cluster.start(node, "server", "speaker", "agent")


@contextmanager
def joined(cluster: ClusterLab, node: str, *daemons: str) -> Iterator[None]:
    """Start these daemons (speaker and agent by default) on a node where only the server runs; at the end of the block
    it leaves for good."""
    cluster.start(node, *(daemons or ("speaker", "agent")))
    try:
        yield
    finally:
        for command in ("drain", "leave"):
            cluster.request(node, "POST", f"/{command}")
        wait_for(lambda: not any(lists(cluster, one, node) for one in cluster.addresses), f"{node} to have left")
        end(cluster, node)
        cluster.start(node, "server")


@contextmanager
def other_configuration(cluster: ClusterLab, node: str, text: str) -> Iterator[None]:
    """Run a node's speaker and agent with a configuration and a key of its own; at the end only its server runs."""
    folder = cluster.lab.root(node) / "run/other"
    folder.mkdir()
    (folder / "lb.yml").write_text(text)
    (folder / "cluster.key").write_text("0123456789abcdef0123456789abcdef\n")
    (folder / "cluster.key").chmod(0o600)
    logs = cluster.lab.root(node) / "var/log/anylb"
    for daemon in ("bgp", "agent"):
        argv = ["lbctl", daemon, "run", "--config", "/run/other/lb.yml"]
        cluster.lab.spawn(node, argv, logs / f"{daemon}.log")
    try:
        wait_for(lambda: cluster.agent_answers(node), f"{node}'s agent")
        yield
    finally:
        end(cluster, node)
        cluster.start(node, "server")
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def lists(cluster: ClusterLab, observer: str, node: str) -> bool:
    """Whether another node may have this one in its chains; one whose agent does not answer yet may."""
    if observer == node or not cluster.pids(observer, "agent"):
        return False
    status = cluster.service_status(observer)
    return status is None or node in status.listed


def end(cluster: ClusterLab, node: str) -> None:
    """Kill a node's daemons, and empty what a boot would find empty."""
    for daemon in DAEMONS:
        for pid in cluster.pids(node, daemon):
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(cluster.pids(node, daemon) for daemon in DAEMONS), f"{node}'s daemons to be gone")
    cluster.lab.exec(node, ["sh", "-c", SWEEP])
