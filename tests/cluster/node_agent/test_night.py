# SPDX-License-Identifier: Apache-2.0
"""What an operator meets at night: a fault, the command that is asked, and the text that names its cause.

`pytest tests/cluster/node_agent/test_night.py -s` prints the table of docs/troubleshooting.md: cause, command, its
text, and seconds until it is named. Each fault is undone, and the cluster is whole again before the next.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from support.cluster_lab import FOUR, ClusterLab
from support.night_faults import (
    between,
    clock_jumps,
    detached,
    full_disk,
    link_down,
    native_refused,
    other_password,
    own_file,
    own_key,
    resetting_server,
    router_has,
    two_next_hops,
)
from support.segment_faults import PORTS, dropped
from support.waiting import wait_for

from topology.demo.cluster import VIP

pytestmark = pytest.mark.lab
CLIENT = "10.1.1.7"
BGP_FROM_B3 = ((12, 2, 0x0800), (23, 1, 6), (36, 2, 179))
"""TCP over IPv4 to port 179, at b3's port of the segment."""


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """Return the rows of the table, for each test to add one."""
    rows: list[str] = []
    yield rows
    print("\n| what happened | asked | answer | after |\n|---|---|---|---|", *rows, sep="\n")


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
        lambda c: other_password(c, "b3"),
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
    (
        "the router has two next hops of four: its limit of paths",
        two_next_hops,
        "b1", "cluster",
        r"10\.0\.0\.13, 10\.0\.0\.14: no packet from routers, which send .* to the others: see there whether ",
    ),
    (
        "a path is too narrow: a switch's port has a lower MTU",
        lambda c: between(
            c, "segment", ["ip", "link", "set", PORTS["b3"], "mtu", "1400"],
            ["ip", "link", "set", PORTS["b3"], "mtu", "1500"],
        ),
        "b1", "doctor", r"path to 10\.0\.0\.13: a packet of 1500 bytes is lost, one of 1400 arrives",
    ),
    (
        "connections are reset after a deploy: which node does so, seen from another",
        lambda c: resetting_server(c, "b3"),
        "b1", "cluster", r"10\.0\.0\.13: its kernel resets connections \(\d+ resets/s, \d+ connections accepted/s\)",
    ),
    (
        "connections are reset after a deploy: the new server of b3 resets them",
        lambda c: resetting_server(c, "b3"),
        "b3", "doctor", r"this machine resets connections: \d+ resets sent",
    ),
    (
        "connections are reset after a deploy: b3 has another lb.yml",
        lambda c: own_file(c, "b3", ("port: 7000", "port: 7001")),
        "b1", "status", r"10\.0\.0\.13 serves \S+7001.*, this node :7000",
    ),
    (
        "the nodes disagree on the table: one has another lb.yml",
        lambda c: own_file(c, "b3", ("port: 7000", "port: 7001")),
        "b1", "cluster", r"10\.0\.0\.13 +up +other ",
    ),
    (
        "a node has another key",
        lambda c: own_key(c, "b3"),
        "b1", "check", r"10\.0\.0\.13 signs with another key: give all nodes the same members\.key_file",
    ),
    (
        "a configuration was refused",
        lambda c: own_file(c, "b3", ("port: 7000", "port: 70000"), code=1),
        "b3", "check", r"lb\.yml was refused, .*:11:11: services\[0\]\.port: 70000 is neither in",
    ),
    (
        "somebody detaches XDP",
        lambda c: detached(c, "b3"),
        "b3", "events", r"warning: XDP was detached by something else, and is attached again: eth1 \(native\)",
    ),
    (
        "XDP is detached, and the driver refuses native mode when the agent attaches it again",
        lambda c: native_refused(c, "b3", PORTS["b3"]),
        "b3", "check", r"WARNING: .*eth1: XDP runs in generic mode, which is slower \(its driver refused native mode: ",
    ),
    (
        "the clock of a node jumps by an hour",
        lambda c: clock_jumps(c, "b2"),
        "b2", "events", r"warning: the clock was set forward by 1 h: times before this line are by the former clock",
    ),
    (
        "the disk is full",
        lambda c: full_disk(c, "b3"),
        "b3", "doctor", r"disk of /var/lib/anylb: 0 MB are free: state is not kept over a restart",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "broken", "node", "command", "named"), CASES, ids=[one[0] for one in CASES])
def test_the_cause_is_named(
    cluster: ClusterLab, table: list[str], fault: str, broken: Fault, node: str, command: str, named: str
) -> None:
    def ask() -> str:
        done = cluster.lab.exec(node, ["lbctl", *command.split()], check=False)
        return done.stdout + done.stderr

    wait_for(lambda: not re.search(named, ask()), "it not to be named without the fault", timeout_s=60)
    with broken(cluster):
        start = time.monotonic()
        answers = []

        def is_named() -> bool:
            answers[:] = [ask()]
            return re.search(named, answers[0]) is not None

        try:
            wait_for(is_named, f"`lbctl {command}` on {node} to name it")
        except AssertionError:
            pytest.fail(f"{fault}: `lbctl {command}` on {node} printed\n{answers[0]}")
        seconds = time.monotonic() - start
        found = next(line.strip() for line in answers[0].splitlines() if re.search(named.split(r"\n")[0], line))
        table.append(f"| {fault} | {node}: `lbctl {command}` | {found[:200]} | {seconds:.1f} s |")
    wait_for(lambda: cluster.next_hops() == set(FOUR), "four next hops again")
    wait_for(cluster.tables_agree, "equal tables again")
