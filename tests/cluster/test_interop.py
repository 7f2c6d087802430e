# SPDX-License-Identifier: Apache-2.0
"""Four kinds of router, eBGP with an AS for each node and iBGP with the router as reflector: the same scenario.

    b1 ──┐                 all sessions come up, the VIP has four next hops, all nodes are members at all;
    b2 ──┤ router          b1, b2 announce, b3, b4 are members alone; b4 withdraws and comes back;
    b3 ──┤                 ExaBGP on b1 is killed: its next hop goes, b1 stays a member; it comes back
    b4 ──┘

Times are those of the router's kernel (BIRD, FRR) or of its RIB, polled a quarter of the time (GoBGP, OpenBGPD). States
are asserted, times are reported: by the table at the end of the run.
"""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.interop_lab import KINDS, NODES, Interop, interop

pytestmark = pytest.mark.lab
ALL_UP = dict.fromkeys(NODES, "up")


@pytest.mark.parametrize("mode", ["eBGP", "iBGP"])
@pytest.mark.parametrize("kind", KINDS)
def test_matrix(kind: str, mode: str, figures: dict[str, dict[str, int]], tmp_path: Path) -> None:
    row = figures.setdefault(f"{kind} {mode}", {})
    with interop(kind, mode, tmp_path) as lab:
        begin(lab, row)
        members_only(lab)
        withdrawn(lab, row)
        killed(lab, row)


@pytest.mark.parametrize("kind", KINDS)
def test_one_as_for_all_nodes_with_a_password_and_gtsm(
    kind: str, figures: dict[str, dict[str, int]], tmp_path: Path
) -> None:
    """Without its configuration GoBGP would not advertise routes between nodes of one AS. Two nodes suffice."""
    with interop(kind, "guarded", tmp_path) as lab:
        begin(lab, figures.setdefault(f"{kind} guarded", {}), NODES[:2])
        # Printed on a node, for that node alone: without an agent, and without the password.
        printed = lab.cluster.lab.exec("b2", ["lbctl", "announce", "config", "--router", kind]).stdout
        assert printed.count("The router's configuration for anylb") == 1
        assert all(part in printed for part in ("10.0.0.12", "fd00::12", "REPLACE-BY-CONTENT-OF-secret"))
        assert "10.0.0.11" not in printed


def begin(lab: Interop, row: dict[str, int], nodes: Sequence[str] = NODES) -> None:
    """Start these nodes' daemons and wait for sessions, next hops and identities."""
    since = time.monotonic()
    for node in nodes:
        lab.cluster.start(node, "speaker", "agent")
    row["sessions"] = lab.until("all sessions", lambda: lab.sessions() == lab.hops(*nodes) | lab.hops6(*nodes), since)
    row[f"ECMP of {len(nodes)}"] = lab.until_hops(since, *nodes)
    row["IPv6 too"] = lab.until("the IPv6 VIP by all", lambda: lab.current6() == lab.hops6(*nodes), since)
    up = dict.fromkeys(nodes, "up")
    row["members"] = lab.until("all members at all nodes", lambda: all_see(lab, up, nodes), since)


def members_only(lab: Interop) -> None:
    """Let two nodes announce and two be members alone: all nodes know all members."""
    for node in ("b3", "b4"):
        lab.announce(node, False)
    lab.until_hops(time.monotonic(), "b1", "b2")
    lab.until("the IPv6 VIP by two", lambda: lab.current6() == lab.hops6("b1", "b2"), time.monotonic())
    time.sleep(0.5)  # a wrong withdrawal would have arrived by now
    assert all_see(lab, ALL_UP)
    assert lab.history.current == lab.hops("b1", "b2")
    for node in ("b3", "b4"):
        lab.announce(node, True)
    lab.until_hops(time.monotonic(), *NODES)


def withdrawn(lab: Interop, row: dict[str, int]) -> None:
    """Withdraw a node's VIP by command, and announce it again."""
    since = time.monotonic()
    lab.cluster.request("b4", "POST", "/withdraw")
    row["withdraw"] = lab.until_hops(since, "b1", "b2", "b3")
    since = time.monotonic()
    lab.cluster.request("b4", "POST", "/announce")
    row["announce"] = lab.until_hops(since, *NODES)


def killed(lab: Interop, row: dict[str, int]) -> None:
    """Kill ExaBGP, and start it again."""
    (pid,) = lab.cluster.pids("b1", "speaker")
    since = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    others = ("b2", "b3", "b4")
    row["kill -9"] = lab.until_hops(since, *others)
    lab.until("b1 to leave the IPv6 VIP", lambda: lab.current6() == lab.hops6(*others), since)
    time.sleep(0.5)  # its identity is withdrawn everywhere by now
    assert all_see(lab, ALL_UP), "it answers: others forward to it, and its connections live on"
    since = time.monotonic()
    lab.cluster.start("b1", "speaker")
    row["back"] = lab.until_hops(since, *NODES)
    lab.until("the IPv6 VIP by all again", lambda: lab.current6() == lab.hops6(*NODES), since)
    lab.until("all members at all nodes", lambda: all_see(lab, ALL_UP), since)


def all_see(lab: Interop, expected: dict[str, str], nodes: Sequence[str] = NODES) -> bool:
    return all(lab.members(node) == expected for node in nodes)
