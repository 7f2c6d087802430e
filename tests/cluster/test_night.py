# SPDX-License-Identifier: Apache-2.0
"""What an operator meets at night: a fault, the command that is asked, and the text that names its cause.

    client ── router (BIRD) ── segment ──┬── b1 … b4, each with ExaBGP, relay, agent and echo server

`pytest tests/cluster/test_night.py -s` prints the table of docs/troubleshooting.md: cause, command, seconds until it is
named. Each fault is undone, and the cluster is whole again before the next.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from support.cluster_lab import FOUR, ClusterLab, cluster_lab
from support.segment_faults import PORTS, dropped
from support.waiting import wait_for

from topology.demo.cluster import VIP

pytestmark = pytest.mark.lab
CLIENT = "10.1.1.7"
BGP_FROM_B3 = ((12, 2, 0x0800), (23, 1, 6), (36, 2, 179))
"""TCP over IPv4 to port 179, at b3's port of the segment."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterLab]:
    with cluster_lab("night") as made:
        wait_for(lambda: made.next_hops() == set(FOUR), "four next hops")
        wait_for(made.tables_agree, "equal tables")
        yield made


@contextmanager
def router_has(cluster: ClusterLab, *replacement: str) -> Iterator[None]:
    """Have the router run another configuration, by replacements of texts in turn: old, new."""
    text = (cluster.lab.root("router") / "etc/bird/bird.conf").read_text()
    changed = text
    for old, new in zip(replacement[::2], replacement[1::2], strict=True):
        assert old in changed
        changed = changed.replace(old, new)
    other = cluster.lab.root("router") / "tmp/bird.conf"
    other.write_text(changed)
    cluster.lab.exec("router", ["birdc", 'configure "/tmp/bird.conf"'])
    try:
        yield
    finally:
        cluster.lab.exec("router", ["birdc", 'configure "/etc/bird/bird.conf"'])


@contextmanager
def between(cluster: ClusterLab, node: str, fault: list[str], repair: list[str]) -> Iterator[None]:
    """Run a command on a node, and another one at the end."""
    cluster.lab.exec(node, fault)
    try:
        yield
    finally:
        cluster.lab.exec(node, repair)


@contextmanager
def link_down(cluster: ClusterLab, node: str) -> Iterator[None]:
    cluster.lab.link(node, "eth1", False)
    try:
        yield
    finally:
        cluster.lab.link(node, "eth1", True)


Fault = Callable[[ClusterLab], AbstractContextManager[None]]
CASES: list[tuple[str, Fault, str, str, str]] = [
    (
        "one client hangs: it is denied, on one node only",
        lambda c: between(c, "b2", ["lbctl", "deny", "add", CLIENT], ["lbctl", "deny", "del", CLIENT]),
        "b1", f"explain tcp,{CLIENT}:4000,{VIP}:7000 --live",
        r"10\.0\.0\.12 .*drop_denied: the client's address is on its deny list",
    ),
    (
        "b3 gets no traffic: the router has shut its session down, and has three next hops of four",
        lambda c: between(c, "router", ["birdc", "disable", "b3"], ["birdc", "enable", "b3"]),
        "b3", "check", r"CRITICAL: .*10\.0\.0\.1 down for .*shut down at the router",
    ),
    (
        "b3 gets no traffic: it is drained",
        lambda c: between(c, "b3", ["lbctl", "drain"], ["lbctl", "undrain"]),
        "b3", "status", rf"{re.escape(VIP)} +no +the node is draining",
    ),
    (
        "wrong AS: the router expects another one of b3",
        lambda c: router_has(c, "neighbor 10.0.0.13 as 65001", "neighbor 10.0.0.13 as 65099"),
        "b3", "check", "wrong AS: the router expects another AS of this node",
    ),
    (
        "wrong password: the router asks for TCP MD5",
        lambda c: router_has(c, "protocol bgp b3 from nodes {", 'protocol bgp b3 from nodes { password "x";'),
        "b3", "check", "its TCP MD5 password differs",
    ),
    (
        "port 179 is filtered on the way to the router",
        lambda c: dropped(c, {PORTS["b3"]: [BGP_FROM_B3]}),
        "b3", "check", r"10\.0\.0\.1 down for .*(hold timer expired|a filter drops it)",
    ),
    (
        "the router's BGP daemon is away",
        lambda c: between(c, "router", ["birdc", "down"], ["bird", "-c", "/etc/bird/bird.conf"]),
        "b1", "check", "connection refused: no BGP daemon accepts it there",
    ),
    (
        "a link flaps: b3's interface is down",
        lambda c: link_down(c, "b3"),
        "b3", "doctor", r"FAIL  interface eth1: is down\n +next: ip link set eth1 up",
    ),
    (
        "a node is gone: seen by the others",
        lambda c: link_down(c, "b4"),
        "b1", "check", r"10\.0\.0\.14 does not answer: check whether it runs, and the network to it",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "broken", "node", "command", "named"), CASES, ids=[one[0] for one in CASES])
def test_the_cause_is_named(
    cluster: ClusterLab, fault: str, broken: Fault, node: str, command: str, named: str
) -> None:
    def ask() -> str:
        done = cluster.lab.exec(node, ["lbctl", *command.split()], check=False)
        return done.stdout + done.stderr

    assert not re.search(named, ask()), "it would be named without the fault, too"
    with broken(cluster):
        start = time.monotonic()
        answers = []

        def is_named() -> bool:
            answers[:] = [ask()]
            return re.search(named, answers[0]) is not None

        try:
            wait_for(is_named, f"`lbctl {command}` on {node} to name it", timeout_s=15)
        except AssertionError:
            pytest.fail(f"{fault}: `lbctl {command}` on {node} printed\n{answers[0]}")
        print(f"| {fault} | {node}: `lbctl {command}` | {time.monotonic() - start:.1f} s |")
    wait_for(lambda: cluster.next_hops() == set(FOUR), "four next hops again", timeout_s=60)
    wait_for(cluster.tables_agree, "equal tables again", timeout_s=60)
