# SPDX-License-Identifier: Apache-2.0
"""BFD with real routers, BIRD 2 and FRR, over a switch that can swallow packets (bfd_lab.py draws it).

The figures of ARCHITECTURE.md: `pytest tests/bgp/bfd/test_bfd_lab.py -s --bfd-rounds 20 --bfd-load-s 600`.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Iterator

import pytest
from support.bfd_lab import INTERVAL_MS, MULTIPLIER, Cluster, Load, Sniffer
from support.waiting import wait_for

from topology.lab.lab import Lab

pytestmark = pytest.mark.lab

BOTH, B1_GONE = {"10.0.0.11", "10.0.0.12"}, {"10.0.0.12"}
DETECTION_S = INTERVAL_MS * MULTIPLIER / 1000


@pytest.fixture(scope="module", params=["bird", "frr"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    router, logs = request.param, tmp_path_factory.mktemp(request.param)
    with Lab.up(Cluster.file(router, logs), name=f"bfd-{router}-{os.getpid()}", keep=False) as lab:
        cluster = Cluster(lab, router, logs)
        try:
            for server in (cluster.b1, cluster.b2):
                server.start_agent()
            yield cluster
        finally:
            for server in (cluster.b1, cluster.b2):
                server.stop_agent()


@pytest.fixture
def whole(cluster: Cluster) -> Cluster:
    wait_for(lambda: cluster.whole, "the state that the test before should have left", 60)
    return cluster


def test_silent_failure_takes_the_route_and_without_bfd_it_stays(whole: Cluster, request: pytest.FixtureRequest):
    times: list[float] = []
    for _ in range(request.config.getoption("--bfd-rounds")):
        wait_for(lambda: whole.whole, "all back", 60)
        time.sleep(INTERVAL_MS / 1000 * len(times) / 7 % 0.3)  # at another moment between two packets
        mark, sniffer = len(whole.events()), Sniffer(whole.b1.speaker.pid, "eth1")
        began, _ = whole.block(1), whole.block(2)
        wait_for(lambda: whole.next_hops() == B1_GONE, "b1's route is gone")
        times.append(whole.alone_at(mark, "10.0.0.12") - began)
        wait_for(lambda: whole.b1.peer and not whole.b1.peer.up, "b1 has given up its session too")
        assert whole.b1.bfd is not None
        assert (whole.b1.bfd.state, whole.b1.bfd.diagnostic) == ("down", "the neighbor was silent for too long")
        assert whole.b1.peer is not None
        assert whole.b1.peer.routes == ()
        sniffer.take()
        assert sniffer.bfd_down, "it said why, though nobody heard it"
        time.sleep(2 * DETECTION_S)
        assert whole.next_hops() == B1_GONE, "the control: b2's silence is not noticed"
        assert whole.b2.peer is not None
        assert whole.b2.peer.up, "nor the router's at b2"
        for port in (1, 2):
            whole.block(port, False)
    milliseconds = sorted(round(1000 * seconds) for seconds in times)
    print(f"\n{whole.router}: silence to withdrawn in ms, {len(times)} times: {milliseconds}")
    assert max(times) < 5, "long before the hold time"


def test_agent_and_relay_may_come_and_go(whole: Cluster):
    assert whole.b1.bfd is not None
    since, router, mark = whole.b1.bfd.since, whole.router_session(), len(whole.events())
    whole.b1.stop_agent()
    time.sleep(2 * DETECTION_S)
    whole.b1.start_agent()
    relay, bfd = whole.b1.helper("relay.pyz"), whole.b1.helper("bfd.pyz")
    assert relay is not None
    seen = len(whole.b1.snapshots)
    os.kill(relay, signal.SIGKILL)
    wait_for(lambda: whole.b1.helper("relay.pyz") not in (None, relay), "another relay")
    wait_for(lambda: len(whole.b1.snapshots) > seen, "it speaks")
    time.sleep(2 * DETECTION_S)
    assert whole.b1.helper("bfd.pyz") == bfd
    assert whole.b1.bfd.since == since, "the successor knows what the BFD process sees"
    assert whole.router_session() == router
    assert whole.events()[mark:] == [], "the router's kernel saw nothing"


def test_killed_bfd_process_is_seen_and_comes_back(whole: Cluster):
    """The control of the test before: the router does watch this process."""
    mark, bfd, router = len(whole.events()), whole.b1.helper("bfd.pyz"), whole.router_session()
    assert bfd is not None
    os.kill(bfd, signal.SIGKILL)
    wait_for(lambda: whole.events()[mark:], "the router takes b1's route away")
    wait_for(lambda: whole.whole, "and has it again", 60)
    assert whole.b1.helper("bfd.pyz") not in (None, bfd)
    assert whole.router_session() != router


def test_bfd_comes_and_goes_with_a_reload_and_the_session_stays(whole: Cluster):
    """The router does not answer b2: what never was up cannot fail."""
    assert whole.b2.peer is not None
    assert whole.b2.helper("bfd.pyz") is None
    since = whole.b2.peer.since
    whole.b2.reload(bfd=True)
    wait_for(lambda: whole.b2.bfd and not whole.b2.bfd.error, "what the new process sees")
    time.sleep(4 * DETECTION_S)
    assert whole.b2.bfd is not None
    assert whole.b2.bfd.state == "down"
    whole.b2.reload(bfd=False)
    wait_for(lambda: not whole.b2.helper("bfd.pyz") and not whole.b2.bfd, "no process, and no word of it")
    assert whole.b2.peer.up
    assert whole.b2.peer.since == since


def test_no_false_alarm_under_full_load(whole: Cluster, request: pytest.FixtureRequest):
    seconds = request.config.getoption("--bfd-load-s")
    assert whole.b1.bfd is not None
    since, router, mark = whole.b1.bfd.since, whole.router_session(), len(whole.events())
    cores = os.cpu_count() or 1
    sniffer = Sniffer(whole.b1.speaker.pid, "eth1")
    with Load(2, cores):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.2)
            sniffer.take()
    for address, whose in (("10.0.0.11", "ours"), ("10.0.0.1", "the router's")):
        gaps = sniffer.gaps(address)
        print(
            f"\n{whole.router}, {seconds} s with {2 * cores} busy processes on {cores} cores: {len(gaps)} gaps between "
            f"{whose} packets, median {1000 * statistics.median(gaps):.0f} ms, longest {1000 * gaps[-1]:.0f} ms"
        )
    assert sniffer.not_up == 0
    assert whole.b1.bfd.since == since
    assert whole.router_session() == router
    assert whole.events()[mark:] == []
