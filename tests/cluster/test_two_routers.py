# SPDX-License-Identifier: Apache-2.0
"""Two routers at once, BIRD 2 and FRR: dual.clab.yml. One of them dies, and connections live on through the other.

              ┌── router1 ──┐
    client ───┤             ├── segment ── b1 … b4, each with a session to both routers
              └── router2 ──┘

The other router hashes flows onto other servers. The negative control is the same lab as plain ECMP anycast
(`XDP=off`): half of all flows change their router there, and most of those break.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from support.cluster_lab import FOUR, TOPOLOGY, ClusterLab, cluster_lab
from support.waiting import wait_for

from topology.demo.cluster import VIP
from topology.demo.router_watch import NextHopHistory, RouterWatch
from topology.traffic.controller import ConnectionAttemptReport, HeldConnectionReport, TrafficController

pytestmark = pytest.mark.lab
ROUTERS = ("router1", "router2")
HELD = 300
FRESH_PER_S = 20.0


@dataclass
class Dual:
    """A lab with its traffic, and the next hops in its routers' kernels."""

    cluster: ClusterLab
    traffic: TrafficController
    histories: dict[str, NextHopHistory]

    def digests(self) -> set[str]:
        statuses = [self.cluster.service_status(node) for node in FOUR]
        return {status.digest if status else "" for status in statuses}


@contextlib.contextmanager
def dual(xdp: str) -> Iterator[Dual]:
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(cluster_lab(f"dual-{xdp}", TOPOLOGY / "dual.clab.yml", {"XDP": xdp}))
        nodes = cluster.lab.nodes
        watches = {name: stack.enter_context(RouterWatch(nodes[name].pid, VIP)) for name in ROUTERS}
        traffic = cluster.start_traffic()
        stack.callback(traffic.quit)
        yield Dual(cluster, traffic, {name: watch.history for name, watch in watches.items()})


def begin(lab: Dual) -> None:
    """Wait until both routers route to all nodes and all tables are equal; open connections through both."""
    everyone = frozenset(lab.cluster.addresses.values())
    wait_for(lambda: all(history.current == everyone for history in lab.histories.values()), "all next hops")
    wait_for(lab.cluster.tables_agree, "equal tables")
    lab.traffic.open(HELD)
    lab.traffic.fresh(FRESH_PER_S)
    wait_for(lambda: lab.traffic.progress().open == HELD, "connections")
    now = time.monotonic()
    wait_for(lambda: lab.traffic.progress(now).unsettled == 0, "an answer on each")
    lab.traffic.begin()


def settled(lab: Dual, since: float) -> list[HeldConnectionReport]:
    """Return the reports of the held connections, once each has answered or is broken."""

    def ended() -> bool:
        progress = lab.traffic.progress(since)
        return not progress.unsettled and not progress.pending

    wait_for(ended, "every connection to answer or to break")
    return lab.traffic.report()[0]


def sessions(lab: Dual, node: str) -> int:
    """Return how many BGP sessions of a node are up, by its own account."""
    return sum(peer["state"] == "up" for peer in lab.cluster.status(node)["bgp"]["peers"])


def attempts_since(lab: Dual, since: float) -> list[ConnectionAttemptReport]:
    return [one for one in lab.traffic.report()[1] if one.started_at > since]


@pytest.mark.parametrize("victim", ROUTERS)
def test_one_router_dies_and_connections_live_on(victim: str, remarks: list[str]) -> None:
    (other,) = set(ROUTERS) - {victim}
    with dual("auto") as lab, dual("off") as control:
        for one in (lab, control):
            begin(one)
        digests = lab.digests()
        died = time.monotonic()
        for one in (lab, control):
            one.cluster.crash(victim)
        for one in (lab, control):
            wait_for(lambda one=one: all(sessions(one, node) == 1 for node in FOUR), "all to end their sessions to it")
        wait_for(lambda: len(attempts_since(lab, died)) > 3 * FRESH_PER_S, "new connections meanwhile")
        now = time.monotonic()
        held, plain = settled(lab, now), settled(control, now)
        broken = [one for one in held if one.state != "open"]
        broken_plain = [one for one in plain if one.state != "open"]
        silence_s = max(one.silence_s for one in held)
        remarks.append(
            f"{victim} of two dies: {len(broken)} of {HELD} broke, plain ECMP {len(broken_plain)}; "
            f"longest silence {silence_s:.1f} s"
        )
        assert not broken
        assert len(broken_plain) > HELD / 10, "else the traffic proves nothing"
        attempts = [one for one in attempts_since(lab, died) if one.started_at < now]
        assert {one.outcome for one in attempts} == {"ok"}
        assert lab.digests() == digests, "the members did not change"
        assert lab.histories[other].changes(died) == []
