# SPDX-License-Identifier: Apache-2.0
"""BFD with real routers, BIRD 2 and FRR, over a switch that can drop packets (bfd_lab.py has the topology).

The figures of ARCHITECTURE.md: `pytest tests/bgp/bfd/test_bfd_lab.py -s --bfd-rounds 20 --bfd-load-s 600`.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Iterator

import pytest
from support.bfd_lab import INTERVAL_MS, MULTIPLIER, BfdLab, Sniffer
from support.busy import Load
from support.waiting import wait_for

from topology.lab.lab import Lab

pytestmark = pytest.mark.lab

BOTH, B1_GONE = {"10.0.0.11", "10.0.0.12"}, {"10.0.0.12"}
DETECTION_S = INTERVAL_MS * MULTIPLIER / 1000


@pytest.fixture(scope="module", params=["bird", "frr"])
def shared_lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BfdLab]:
    router, logs = request.param, tmp_path_factory.mktemp(request.param)
    with Lab.up(BfdLab.file(router, logs), name=f"bfd-{router}-{os.getpid()}", keep=False) as lab:
        bfd_lab = BfdLab(lab, router, logs)
        try:
            for server in (bfd_lab.b1, bfd_lab.b2):
                server.start_agent()
            yield bfd_lab
        finally:
            for server in (bfd_lab.b1, bfd_lab.b2):
                server.stop_agent()


@pytest.fixture
def bfd_lab(shared_lab: BfdLab) -> BfdLab:
    wait_for(lambda: shared_lab.converged, "the state that the previous test must leave")
    return shared_lab


def test_silent_failure_removes_the_route_and_without_bfd_it_stays(bfd_lab: BfdLab, request: pytest.FixtureRequest):
    times: list[float] = []
    for _ in range(request.config.getoption("--bfd-rounds")):
        wait_for(lambda: bfd_lab.converged, "converged")
        time.sleep(INTERVAL_MS / 1000 * len(times) / 7 % 0.3)  # at another time between two packets
        mark, sniffer = len(bfd_lab.events()), Sniffer(bfd_lab.b1.speaker.pid, "eth1")
        began, _ = bfd_lab.block(1), bfd_lab.block(2)
        try:
            wait_for(lambda: bfd_lab.next_hops() == B1_GONE, "b1's route is gone")
            times.append(bfd_lab.alone_at(mark, "10.0.0.12") - began)
            wait_for(lambda: bfd_lab.b1.peer and not bfd_lab.b1.peer.up, "b1 has closed its session too")
            assert bfd_lab.b1.bfd is not None
            assert (bfd_lab.b1.bfd.state, bfd_lab.b1.bfd.diagnostic) == ("down", "the neighbor was silent for too long")
            assert bfd_lab.b1.peer is not None
            assert bfd_lab.b1.peer.routes == ()
            wait_for(sniffer.has_bfd_down, "Cease, BFD Down, which it sends though no one receives it")
            time.sleep(2 * DETECTION_S)
            assert bfd_lab.next_hops() == B1_GONE, "the control: b2's silence is not detected"
            assert bfd_lab.b2.peer is not None
            assert bfd_lab.b2.peer.up, "nor the router's silence at b2"
        finally:
            for port in (1, 2):
                bfd_lab.block(port, False)
    milliseconds = sorted(round(1000 * seconds) for seconds in times)
    print(f"\n{bfd_lab.router}: silence to withdrawn in ms, {len(times)} times: {milliseconds}")
    assert max(times) < 30, "long before the hold time"


def test_restart_of_agent_and_relay_does_not_disturb_bfd(bfd_lab: BfdLab):
    assert bfd_lab.b1.bfd is not None
    since, router, mark = bfd_lab.b1.bfd.since, bfd_lab.router_session(), len(bfd_lab.events())
    bfd_lab.b1.stop_agent()
    time.sleep(2 * DETECTION_S)
    bfd_lab.b1.start_agent()
    relay, bfd = bfd_lab.b1.helper("relay.pyz"), bfd_lab.b1.helper("bfd.pyz")
    assert relay is not None
    seen = len(bfd_lab.b1.snapshots)
    os.kill(relay, signal.SIGKILL)
    wait_for(lambda: bfd_lab.b1.helper("relay.pyz") not in (None, relay), "another relay")
    wait_for(lambda: len(bfd_lab.b1.snapshots) > seen, "a snapshot of the new relay")
    time.sleep(2 * DETECTION_S)
    assert bfd_lab.b1.helper("bfd.pyz") == bfd
    assert bfd_lab.b1.bfd.since == since, "the successor reads the status of the BFD process"
    assert bfd_lab.router_session() == router
    assert bfd_lab.events()[mark:] == [], "no change in the router's kernel"


def test_killed_bfd_process_is_detected_and_restarted(bfd_lab: BfdLab):
    """The control of the previous test: the router does monitor this process.

    ExaBGP is stopped until then: a busy BIRD misses a session that is down and up again at once.
    """
    mark, bfd, router = len(bfd_lab.events()), bfd_lab.b1.helper("bfd.pyz"), bfd_lab.router_session()
    assert bfd is not None
    os.kill(bfd_lab.b1.speaker.pid, signal.SIGSTOP)
    try:
        os.kill(bfd, signal.SIGKILL)
        wait_for(lambda: bfd_lab.events()[mark:], "the router removes b1's route")
    finally:
        os.kill(bfd_lab.b1.speaker.pid, signal.SIGCONT)
    wait_for(lambda: bfd_lab.converged, "and has it again")
    assert bfd_lab.b1.helper("bfd.pyz") not in (None, bfd)
    assert bfd_lab.router_session() != router


def test_reload_enables_and_disables_bfd_and_the_bgp_session_stays(bfd_lab: BfdLab):
    """The router does not answer b2: a session that never was up cannot fail."""
    assert bfd_lab.b2.peer is not None
    assert bfd_lab.b2.helper("bfd.pyz") is None
    since = bfd_lab.b2.peer.since
    bfd_lab.b2.reload(bfd=True)
    wait_for(lambda: bfd_lab.b2.bfd and not bfd_lab.b2.bfd.error, "the status of the new process")
    time.sleep(4 * DETECTION_S)
    assert bfd_lab.b2.bfd is not None
    assert bfd_lab.b2.bfd.state == "down"
    bfd_lab.b2.reload(bfd=False)
    wait_for(lambda: not bfd_lab.b2.helper("bfd.pyz") and not bfd_lab.b2.bfd, "no process, and no status")
    assert bfd_lab.b2.peer.up
    assert bfd_lab.b2.peer.since == since


def test_no_false_alarm_under_full_load(bfd_lab: BfdLab, request: pytest.FixtureRequest):
    seconds = request.config.getoption("--bfd-load-s")
    assert bfd_lab.b1.bfd is not None
    since, router, mark = bfd_lab.b1.bfd.since, bfd_lab.router_session(), len(bfd_lab.events())
    cores = os.cpu_count() or 1
    sniffer = Sniffer(bfd_lab.b1.speaker.pid, "eth1")
    with Load(2, cores):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.2)
            sniffer.take()
    for address, whose in (("10.0.0.11", "ours"), ("10.0.0.1", "the router's")):
        gaps = sniffer.gaps(address)
        print(
            f"\n{bfd_lab.router}, {seconds} s with {2 * cores} busy processes on {cores} cores: {len(gaps)} gaps "
            f"between {whose} packets, median {1000 * statistics.median(gaps):.0f} ms, longest {1000 * gaps[-1]:.0f} ms"
        )
    assert sniffer.not_up == 0
    assert bfd_lab.b1.bfd.since == since
    assert bfd_lab.router_session() == router
    assert bfd_lab.events()[mark:] == []
