# SPDX-License-Identifier: Apache-2.0
"""Two speakers and a real router, BIRD 2 or FRR: the routes in the router, and what one speaker learns of the other.

    b1 10.0.0.11 ──┐
     65001         ├── router 10.0.0.1 (the bridge is inside it), 65000: topology/routers/*.conf
    b2 10.0.0.12 ──┘

Both announce the VIP and each its identity. Every test leaves the lab as it found it. The router's changes are read
from its kernel (`ip monitor route`), with the kernel's timestamps.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from support.waiting import wait_for

from bgp import community
from bgp.community import Identity
from bgp.exabgp.config import USER
from bgp.relay.adj_rib_in import QUIET_S
from bgp.relay.client import RelayClient
from bgp.relay.deadman import DEADMAN_S
from bgp.relay.protocol import Snapshot
from bgp.route import Route
from topology.lab.lab import Lab

pytestmark = pytest.mark.lab

CLUSTER, VIP = 65001, "10.99.0.1/32"
ROUTERS = Path(__file__).parents[3] / "topology" / "routers"
START = {
    "bird": ["mkdir -p /run/bird", "bird -c /etc/bird/bird.conf"],
    "frr": [
        "install -d -o frr -g frr /run/frr /var/log/frr /var/tmp/frr",
        "/usr/lib/frr/zebra -d -A 127.0.0.1",
        "/usr/lib/frr/bgpd -d -A 127.0.0.1",
        "vtysh -b",
    ],
}
CLEAR = {"bird": ["birdc", "restart", "b1"], "frr": ["vtysh", "-c", "clear bgp 10.0.0.11"]}
_FRR = ["vtysh", "-c", "configure", "-c", "router bgp 65000", "-c"]
SHUTDOWN = {
    "bird": (["birdc", "disable", "b1", '"power work"'], ["birdc", "enable", "b1"]),
    "frr": (
        [*_FRR, "neighbor 10.0.0.11 shutdown message power work"],
        [*_FRR, "no neighbor 10.0.0.11 shutdown"],
    ),
}
LAB = """
name: bgp-{router}
topology:
  defaults: {{kind: linux, image: anylb/lab, network-mode: none}}
  nodes:
    router:
      binds: ["{routers}/{router}.conf:/etc/{router}/{router}.conf:ro"]
      exec:
        - ip link add br0 type bridge
        - ip link set eth1 master br0
        - ip link set eth2 master br0
        - ip link set br0 up
        - ip address add 10.0.0.1/24 dev br0
        {start}
    b1: {{exec: [ip address add 10.0.0.11/24 dev eth1]}}
    b2: {{exec: [ip address add 10.0.0.12/24 dev eth1]}}
  links:
    - {{endpoints: ["b1:eth1", "router:eth1"], mtu: 1500}}
    - {{endpoints: ["b2:eth1", "router:eth2"], mtu: 1500}}
"""
SPEAK = """
import sys
from ipaddress import IPv4Address, IPv4Network
from bgp.exabgp.config import NeighborConfig, SpeakerConfig
from bgp.exabgp.speaker import run
me = IPv4Address(sys.argv[1])
peer = NeighborConfig(IPv4Address("10.0.0.1"), 65000, me, hold_time_s=3)
own = IPv4Network(f"10.254{sys.argv[1][4:]}")
run(SpeakerConfig(65001, me, (peer,), allow=(IPv4Network("10.99.0.0/24"), own), learn=(IPv4Network("10.254.0.0/16"),)))
"""


class SpeakerNode:
    """One server: its speaker, and an agent that sends its desired routes until it is silenced."""

    def __init__(self, lab: Lab, name: str, logs: Path) -> None:
        self.lab, self.name, self.logs = lab, name, logs
        self.address = f"10.0.0.{10 + int(name[1])}"
        self.snapshots: list[Snapshot] = []
        self.speaker: subprocess.Popen[bytes] | None = None
        self.agent_active = threading.Event()
        self.vip = True
        self.sent_at = 0.0
        """When the agent last sent what it desires, as time.time()."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._agent()))

    def identity(self, announces: bool) -> Route:
        identity = Identity(CLUSTER, IPv4Address(self.address), start=7, announces=announces)
        return Route.of(f"10.254{self.address[4:]}/32", self.address, community.encode(identity))

    def start_speaker(self) -> None:
        argv = [sys.executable, "-c", SPEAK, self.address]
        self.speaker = self.lab.spawn(self.name, argv, log=self.logs / f"{self.name}.log")

    def start_agent(self) -> None:
        self.agent_active.set()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def snapshot(self) -> Snapshot:
        return self.snapshots[-1] if self.snapshots else Snapshot()

    def relay_pid(self) -> int | None:
        assert self.speaker is not None
        children = Path(f"/proc/{self.speaker.pid}/task/{self.speaker.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def learned(self) -> dict[str, bool]:
        """Return whether each of the other nodes announces a VIP, by address, as its identity says that is learned."""
        found = {}
        for peer in self.snapshot.peers:
            for route in peer.routes:
                if identity := community.decode(route.large_communities, CLUSTER):
                    found[str(identity.address)] = identity.announces > 0
        return found

    async def _agent(self) -> None:
        path = self.lab.root(self.name) / "run/anylb-bgp/relay.sock"
        client = RelayClient(path, {pwd.getpwnam(USER).pw_uid}, self.snapshots.append)
        task = asyncio.create_task(client.run())
        vip = Route.of(VIP, self.address)
        while not self._stop.is_set():
            if self.agent_active.is_set():
                desired = [self.identity(self.vip), *([vip] if self.vip else [])]
                self.sent_at = time.time()
                client.send_desired(desired, [self.identity(announces=False)])
            await asyncio.sleep(0.05)
        task.cancel()


class RouterLab:
    """The lab, its nodes, and the changes in the router's kernel."""

    def __init__(self, lab: Lab, router: str, logs: Path) -> None:
        self.lab, self.router = lab, router
        self.b1, self.b2 = SpeakerNode(lab, "b1", logs), SpeakerNode(lab, "b2", logs)
        self.nodes = (self.b1, self.b2)
        self._log = logs / "monitor"
        lab.spawn("router", ["ip", "-ts", "monitor", "route"], log=self._log)

    def next_hops(self, prefix: str = VIP) -> set[str]:
        text = self.lab.exec("router", ["ip", "route", "show", prefix]).stdout
        return set(re.findall(r"via ([0-9.]+)", text))

    def events(self) -> list[str]:
        return self._log.read_text().splitlines()

    def times(self, since: int) -> list[float]:
        """Return when the router's kernel changed a route, as time.time()."""
        lines = [line for line in self.events()[since:] if line.startswith("[")]
        return [datetime.fromisoformat(line[1:].partition("]")[0]).timestamp() for line in lines]

    def changed_at(self, since: int, address: str) -> float:
        """Return when the router's kernel first changed the VIP's route or a node's identity, as time.time()."""
        pattern = re.compile(rf"\[(\S+)\].*\b(10\.99\.0\.1|10\.254\.{re.escape(address[5:])})\b")
        times = [match[1] for line in self.events()[since:] if (match := pattern.match(line))]
        return datetime.fromisoformat(times[0]).timestamp()

    @property
    def converged(self) -> bool:
        """Whether the state is the one after the start."""
        return (
            self.next_hops() == {"10.0.0.11", "10.0.0.12"}
            and self.b1.learned().get("10.0.0.12") is True
            and self.b2.learned().get("10.0.0.11") is True
            and all(node.snapshot.advertised >= {VIP} and not node.snapshot.error for node in self.nodes)
        )


@pytest.fixture(scope="module", params=["bird", "frr"])
def shared_lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterLab]:
    router, logs = request.param, tmp_path_factory.mktemp(request.param)
    file = logs / "bgp.clab.yml"
    start = "\n        ".join(f"- {command}" for command in START[router])
    file.write_text(LAB.format(router=router, routers=ROUTERS, start=start))
    with Lab.up(file, name=f"bgp-{router}-{os.getpid()}", keep=False) as lab:
        router_lab = RouterLab(lab, router, logs)
        try:
            for node in router_lab.nodes:
                node.start_speaker()
                node.start_agent()
            wait_for(lambda: router_lab.converged, f"the VIP by two next hops behind {router}")
            yield router_lab
        finally:
            for node in router_lab.nodes:
                node.stop()


@pytest.fixture
def router_lab(shared_lab: RouterLab) -> Iterator[RouterLab]:
    wait_for(lambda: shared_lab.converged, "the state that the previous test must leave")
    yield shared_lab
    wait_for(lambda: shared_lab.converged, "the state from before the test")


def report(what: str, seconds: float) -> None:
    print(f"{what}: {seconds * 1000:.0f} ms")


def test_withdrawn_vip_leaves_the_router_and_returns(router_lab: RouterLab):
    mark, began = len(router_lab.events()), time.time()
    router_lab.b2.vip = False
    wait_for(lambda: router_lab.next_hops() == {"10.0.0.11"}, "one next hop")
    report(f"{router_lab.router}: withdraw", router_lab.changed_at(mark, router_lab.b2.address) - began)
    wait_for(lambda: router_lab.b1.learned().get("10.0.0.12") is False, "its identity, which stays, to say so")
    router_lab.b2.vip = True
    wait_for(lambda: router_lab.next_hops() == {"10.0.0.11", "10.0.0.12"}, "both next hops")


def test_killed_relay_does_not_flap_a_route(router_lab: RouterLab):
    since = router_lab.b1.snapshot.peers[0].since
    wait_for(lambda: time.monotonic() > since + QUIET_S + 5, "a session older than QUIET_S, and than a busy moment")
    wait_for(lambda: all(node.snapshot.peers[0].eor for node in router_lab.nodes), "End-of-RIB inferred")
    mark, seen, known = len(router_lab.events()), len(router_lab.b2.snapshots), router_lab.b1.learned()
    before, old = len(router_lab.b1.snapshots), router_lab.b1.relay_pid()
    assert old is not None
    os.kill(old, signal.SIGKILL)
    began = time.monotonic()
    wait_for(lambda: len(router_lab.b1.snapshots) > before, "a snapshot of the new relay")
    report(f"{router_lab.router}: relay killed to new snapshot", time.monotonic() - began)
    assert router_lab.b1.relay_pid() != old
    snapshot = router_lab.b1.snapshots[before]
    assert snapshot.peers[0].routes, "the first snapshot of a new relay is complete"
    assert router_lab.b1.learned() == known
    assert snapshot.peers[0].since < (since + began) / 2, "the same session, whose age ExaBGP gives in seconds"
    assert snapshot.peers[0].eor
    wait_for(lambda: time.monotonic() > began + 3.0, "longer than the hold time")
    assert router_lab.events()[mark:] == [], "no change in the router's kernel"
    assert router_lab.b2.snapshots[seen:] == [], "no change at the other speaker"
    # The new relay works: otherwise only the fixture of the next test would find a dead one.
    router_lab.b1.vip = False
    wait_for(lambda: router_lab.next_hops() == {"10.0.0.12"}, "the new relay withdraws")
    router_lab.b1.vip = True


def test_session_cleared_at_the_router_is_up_again_at_once(router_lab: RouterLab):
    mark, since = len(router_lab.events()), router_lab.b1.snapshot.peers[0].since
    router_lab.lab.exec("router", CLEAR[router_lab.router])
    # It is up again before the agent gets a snapshot (COALESCE_S), so `since` shows the new session.
    wait_for(lambda: router_lab.b1.snapshot.peers[0].since > since, "a new session")
    began = time.monotonic()
    wait_for(
        lambda: time.monotonic() > began + 1.5 and router_lab.converged,
        "converged, and no late change",
    )
    # No change at all if the new session is up before FRR drops the old one's routes.
    times = router_lab.times(mark) or [0.0]
    report(f"{router_lab.router}: session cleared, first to last change in the router", times[-1] - times[0])
    assert times[-1] - times[0] < 10


def test_shutdown_at_the_router_is_the_reason_with_its_text(router_lab: RouterLab):
    down, up = SHUTDOWN[router_lab.router]
    router_lab.lab.exec("router", down)
    reason = r'NOTIFICATION 6/2 .*"power work"'
    peer = lambda: router_lab.b1.snapshot.peers[0]  # noqa: E731
    wait_for(lambda: not peer().up and re.search(reason, peer().why), "the session is down for that")
    router_lab.lab.exec("router", up)
    wait_for(lambda: router_lab.converged, "the session is back")


def test_routes_of_a_killed_exabgp_go_and_return_with_its_restart(router_lab: RouterLab):
    mark, speaker = len(router_lab.events()), router_lab.b1.speaker
    assert speaker is not None
    began = time.time()
    speaker.kill()
    wait_for(lambda: router_lab.next_hops() == {"10.0.0.12"}, "one next hop")
    report(f"{router_lab.router}: kill -9 of ExaBGP", router_lab.changed_at(mark, router_lab.b1.address) - began)
    wait_for(lambda: "10.0.0.11" not in router_lab.b2.learned(), "its identity is withdrawn")
    assert speaker.wait() == -signal.SIGKILL
    restarted = time.time()
    router_lab.b1.start_speaker()
    wait_for(lambda: router_lab.next_hops() == {"10.0.0.11", "10.0.0.12"}, "both next hops")
    report(f"{router_lab.router}: start of ExaBGP to route", time.time() - restarted)


def test_silent_agent_loses_the_vip_and_not_the_identity(router_lab: RouterLab):
    mark = len(router_lab.events())
    router_lab.b1.agent_active.clear()
    wait_for(lambda: router_lab.b1.snapshot.deadman, "dead-man")
    wait_for(lambda: router_lab.next_hops() == {"10.0.0.12"}, "one next hop")
    # Since the last message: on a busy machine the next one may be late when the agent falls silent.
    took = router_lab.changed_at(mark, router_lab.b1.address) - router_lab.b1.sent_at
    report(f"{router_lab.router}: dead-man", took)
    assert DEADMAN_S - 0.1 < took < 2 * DEADMAN_S
    wait_for(lambda: router_lab.b2.learned().get("10.0.0.11") is False, "its identity announces nothing")
    identity_gone = [line for line in router_lab.events()[mark:] if "10.254.0.11" in line and "Deleted" in line]
    assert identity_gone == []
    router_lab.b1.agent_active.set()
