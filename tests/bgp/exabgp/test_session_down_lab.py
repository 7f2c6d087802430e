# SPDX-License-Identifier: Apache-2.0
"""Why a session is down, as a real BIRD and the kernel cause it (wire_lab.py), and an ExaBGP that does not answer."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator

import pytest
from support.waiting import wait_for
from support.wire_lab import LASTING_TO_R1, LBCTL, TO_R1, WireLab, session

from bgp.exabgp.connect import RETRY_S
from bgp.relay.protocol import Peer
from bgp.relay.reconciler import SILENT_S

pytestmark = pytest.mark.lab

UP = session("b1", "10.0.0.11")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WireLab]:
    with WireLab.up(tmp_path_factory.mktemp("down"), f"down-{os.getpid()}") as wire:
        yield wire


@pytest.fixture
def wire(lab: WireLab) -> Iterator[WireLab]:
    yield lab
    lab.stop_nodes()
    lab.configure("r1", "")
    lab.lab.exec("r1", ["ip", "link", "set", "br0", "up"])
    # The kernel removes IPv6 addresses with the link; without this one b1 has no next hop to IPv6 clients.
    lab.lab.exec("r1", ["ip", "-6", "address", "replace", "2001:db8::1/64", "dev", "br0", "nodad"])


def peer(wire: WireLab) -> Peer:
    peers = wire.b1.snapshot.peers
    return peers[0] if peers else Peer("", False, 0.0, False)


def lbctl(wire: WireLab, *arguments: str) -> str:
    done = wire.lab.exec("b1", [LBCTL, *arguments], check=False)
    return done.stdout + done.stderr


def wait_down(wire: WireLab, pattern: str) -> Peer:
    wait_for(
        lambda: not peer(wire).up and re.search(pattern, peer(wire).why), lambda: f"{pattern}; there is {peer(wire)}"
    )
    return peer(wire)


def wait_up(wire: WireLab) -> None:
    wait_for(lambda: peer(wire).up, "the session")
    assert (peer(wire).why, wire.b1.snapshot.silent) == ("", False)


def test_refused_then_shut_down_with_a_text_then_back_soon(wire: WireLab):
    wire.b1.start(LASTING_TO_R1)
    assert wait_down(wire, "^connection refused").retry_s == RETRY_S
    wire.configure("r1", UP)
    wait_up(wire)
    wire.birdc("r1", "disable", "b1", '"power work"')
    wait_down(wire, r'^shut down at the router; NOTIFICATION 6/2 .*Cease, Administrative Shutdown\): "power work"')
    wire.birdc("r1", "enable", "b1")
    wait_up(wire)
    log = wire.b1.log.read_text()
    assert len(re.findall("neighbor 10.0.0.1: session down: connection refused", log)) == 1, "a line for each change"
    assert log.count("neighbor 10.0.0.1: session up") == 2


@pytest.mark.parametrize(
    ("config", "pattern"),
    [
        (session("b1", "10.0.0.11", peer_as=65099), "wrong AS: the router expects another.* 2/2 received"),
        (session("b1", "10.0.0.11", own_as=65055), r"wrong AS: the router's is not.*2/2 sent.*65055"),
        (session("b1", "10.0.0.11", more='password "secret";'), "timed out: no answer.*TCP MD5 password"),
    ],
)
def test_session_that_the_configuration_prevents(wire: WireLab, config: str, pattern: str):
    wire.configure("r1", config)
    wire.b1.start(TO_R1)
    wait_down(wire, pattern)
    wire.configure("r1", UP)
    wait_up(wire)


def test_router_that_vanishes_and_comes_back(wire: WireLab):
    wire.configure("r1", UP)
    wire.b1.start(TO_R1)
    wait_up(wire)
    wire.lab.exec("r1", ["ip", "link", "set", "br0", "down"])
    wait_down(wire, r"the hold timer expired.*NOTIFICATION 4/0 sent")
    wait_down(wire, r"the hold timer expired.*; now: (timed out|unreachable)")
    assert peer(wire).routes == ()
    wire.lab.exec("r1", ["ip", "link", "set", "br0", "up"])
    wait_up(wire)


def test_exabgp_that_does_not_answer_is_unknown_at_once_and_back_when_it_answers(wire: WireLab):
    wire.configure("r1", UP)
    wire.b1.configure(TO_R1)
    wire.b1.start_speaker()
    assert wire.b1.speaker is not None
    server = wire.lab.spawn("b1", [sys.executable, "-m", "http.server", "--bind", "::", "80"])
    agent = wire.lab.spawn("b1", [LBCTL, "agent", "run", "--xdp", "off"], log=wire.folder / "agent.log")
    try:
        wait_for(lambda: lbctl(wire, "announce", "check").startswith("OK: "), "a session and the VIP")
        for _ in range(5):  # on a busy machine lbctl may take seconds to start
            os.kill(wire.b1.speaker.pid, signal.SIGSTOP)
            began = time.monotonic()
            wait_for(lambda: "ExaBGP does not answer" in lbctl(wire, "announce", "check"), "critical")
            took = time.monotonic() - began
            if took < SILENT_S + 1.5:
                break
            os.kill(wire.b1.speaker.pid, signal.SIGCONT)
            wait_for(lambda: lbctl(wire, "announce", "check").startswith("OK: "), "recovered by itself")
        assert took < SILENT_S + 1.5, "before the router's hold timer ends the session"
        assert "10.0.0.1 unknown" in lbctl(wire, "status")
        rows = json.loads(lbctl(wire, "announce", "status", "-o", "json"))["peers"]
        assert {(row["session"], row["out"]) for row in rows} == {("unknown", "unknown")}
        os.kill(wire.b1.speaker.pid, signal.SIGCONT)
        # On a busy machine the router's hold timer may have ended the session meanwhile.
        wait_for(lambda: wire.established("r1", "b1"), "the router's session")
        wait_for(lambda: lbctl(wire, "announce", "check").startswith("OK: "), "recovered by itself")
        wire.birdc("r1", "disable", "b1", '"power work"')
        reason = "10.0.0.1 down for [0-9]+ s: shut down at the router; NOTIFICATION 6/2"
        for command in (("announce", "check"), ("announce", "status"), ("status",)):
            wait_for(lambda c=command: re.search(reason, " ".join(lbctl(wire, *c).split())), "the reason")
    finally:
        os.kill(wire.b1.speaker.pid, signal.SIGCONT)
        for process in (agent, server):
            process.terminate()
            process.wait()
