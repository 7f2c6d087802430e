# SPDX-License-Identifier: Apache-2.0
"""lbctl announce on a running cluster: what each command does at a real router, BIRD 2 and FRR.

    client ── router ── segment ──┬── b1 … b4, each with ExaBGP, relay, agent and echo server
                                  └── b5, unused

Every test leaves all four announced. The router is asked itself: its kernel for next hops, its BGP for attributes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.waiting import wait_for

from agent.announcing.routes import GRACEFUL_SHUTDOWN, MED
from topology.demo.cluster import VIP, Cluster
from topology.demo.router_watch import RouterWatch
from topology.lab.lab import Lab
from topology.lab.netns import inside_net

pytestmark = pytest.mark.lab
TOPOLOGY = Path(__file__).parents[2] / "topology"
FOUR = ("b1", "b2", "b3", "b4")
SECOND = "10.99.0.2"
FILES = {"bird": "segment.clab.yml", "frr": "segment-frr.clab.yml"}
STATE = "run/anylb/state.json"


@dataclass(frozen=True)
class Path_:
    """One way to the VIP, as the router's BGP has it."""

    as_path: tuple[int, ...]
    med: int | None
    communities: frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Bench:
    """The cluster, its configuration's file, and the router's next hops."""

    cluster: Cluster
    file: Path
    watch: RouterWatch

    def lbctl(self, node: str, *arguments: str, code: int = 0) -> Any:
        done = self.cluster.lab.exec(node, ["lbctl", *arguments], check=False)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout) if "json" in arguments else done.stdout + done.stderr

    def announce(self, node: str, *arguments: str, code: int = 0) -> Any:
        return self.lbctl(node, "announce", *arguments, code=code)

    def row(self, node: str) -> dict[str, Any]:
        (row,) = self.announce(node, "status", "-o", "json")["peers"]
        return dict(row)

    def hops(self) -> set[str]:
        return {self.cluster.names.get(hop, hop) for hop in self.watch.history.current}

    def paths(self) -> dict[str, Path_]:
        """By node, whatever the router chose."""
        return (bird_paths if self.cluster.router == "bird" else frr_paths)(self.cluster)

    def on_lo(self, node: str, vip: str) -> bool:
        return f" {vip}/32" in self.cluster.lab.exec(node, ["ip", "address", "show", "lo"]).stdout

    def routed(self, vip: str) -> bool:
        return bool(self.cluster.lab.exec("router", ["ip", "route", "show", vip]).stdout)

    @contextlib.contextmanager
    def relay_stopped(self, node: str) -> Iterator[None]:
        """For less than the 10 s after which it would think that the agent is silent."""
        self.cluster.kill(node, "relay", signal.SIGSTOP)
        try:
            yield
        finally:
            self.cluster.kill(node, "relay", signal.SIGCONT)

    def restart_agent(self, node: str, forget: bool = False) -> None:
        self.cluster.kill(node, "agent")
        wait_for(lambda: not self.cluster.pids(node, "agent"), f"{node}'s agent to be gone")
        if forget:
            (self.cluster.lab.root(node) / STATE).unlink()
        self.cluster.start(node, "agent")
        wait_for(lambda: self.cluster.service_status(node), f"{node}'s agent to be ready")


def bird_paths(cluster: Cluster) -> dict[str, Path_]:
    shown = cluster.lab.exec("router", ["birdc", "show", "route", "all", f"{VIP}/32"]).stdout
    found = {}
    for block in re.split(r"(?=\bunicast \[)", shown)[1:]:
        via = re.search(r"via ([0-9.]+)", block)
        assert via
        as_path = re.search(r"BGP\.as_path: ([0-9 ]+)", block)
        med = re.search(r"BGP\.med: ([0-9]+)", block)
        community = re.search(r"BGP\.community: (.+)", block)
        pairs = re.findall(r"\(([0-9]+),([0-9]+)\)", community[1]) if community else []
        found[cluster.names[via[1]]] = Path_(
            tuple(map(int, as_path[1].split())) if as_path else (),
            int(med[1]) if med else None,
            frozenset((int(a), int(b)) for a, b in pairs),
        )
    return found


def frr_paths(cluster: Cluster) -> dict[str, Path_]:
    shown = cluster.lab.exec("router", ["vtysh", "-c", f"show bgp ipv4 unicast {VIP}/32 json"]).stdout
    found = {}
    for path in json.loads(shown).get("paths", []):
        listed = path.get("community", {}).get("list", [])
        pairs = [(65535, 0) if one == "gracefulShutdown" else tuple(map(int, one.split(":"))) for one in listed]
        found[cluster.names[path["nexthops"][0]["ip"]]] = Path_(
            tuple(int(number) for segment in path["aspath"]["segments"] for number in segment["list"]),
            path.get("metric"),
            frozenset(pairs),
        )
    return found


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.fixture(scope="module", params=["bird", "frr"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    router = request.param
    folder = tmp_path_factory.mktemp("announce") / "topology"
    shutil.copytree(TOPOLOGY, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    change(folder / "lb.yml", "bgp:\n", "bgp:\n  allow: [10.99.0.0/24]\n")
    change(folder / "routers/bird.conf", f"{VIP}/32,", f"{VIP}/32, {SECOND}/32,")
    permit = "ip prefix-list from-nodes-ipv4 permit"
    change(folder / "routers/frr.conf", f"{permit} {VIP}/32\n", f"{permit} {VIP}/32\n{permit} {SECOND}/32\n")
    with Lab.up(folder / FILES[router], f"announce-{router}-{os.getpid()}", keep=False) as lab:
        cluster = Cluster(lab, router)
        with RouterWatch(lab.nodes["router"].pid, VIP) as watch:
            made = Bench(cluster, folder / "lb.yml", watch)
            wait_for(lambda: made.hops() == set(FOUR), "four next hops", 30)
            yield made


@pytest.fixture
def bench(running: Bench) -> Iterator[Bench]:
    yield running
    for node in FOUR:
        for verb in ("up", "undrain"):
            running.announce(node, verb)
    wait_for(lambda: running.hops() == set(FOUR), "four next hops")


def test_status_names_each_vip_and_peer(bench: Bench) -> None:
    wait_for(
        lambda: len(bench.announce("b1", "status", "-o", "json")["vips"][0]["others"]) == 3, "the others to be known"
    )
    said = bench.announce("b1", "status", "-o", "json")
    (vip,), (row,) = said["vips"], said["peers"]
    assert {key: row[key] for key in ("vip", "peer", "desired", "out", "session", "why")} == {
        "vip": VIP, "peer": "10.0.0.1", "desired": "announced", "out": "yes", "session": "up", "why": "healthy",
    }  # fmt: skip
    assert 0 <= row["since_s"] < 300
    assert sorted(vip["others"]) == ["10.0.0.12", "10.0.0.13", "10.0.0.14"]
    assert said["relay"] == "connected"
    text = bench.announce("b1", "status")
    for word in (VIP, "10.0.0.1", "announced", "yes", "up", "healthy", "also announced by 10.0.0.12"):
        assert word in text


def test_down_is_gone_when_wait_returns(bench: Bench) -> None:
    assert bench.announce("b2", "down", "--vip", VIP, "--reason", "new [kernel]", "--wait") == f"withdrawn: {VIP}\n"
    row = bench.row("b2")
    assert (row["desired"], row["out"], row["why"]) == ("withdrawn", "no", "withdrawn by the operator: new [kernel]")
    assert "new [kernel]" in " ".join(bench.announce("b2", "status").split())
    wait_for(lambda: "b2" not in bench.paths() and bench.hops() == {"b1", "b3", "b4"}, "b2 to leave the router")
    wait_for(
        lambda: "10.0.0.12" not in str(bench.announce("b1", "status", "-o", "json")["vips"]), "the others to hear it"
    )
    view = bench.cluster.service_status("b1")
    assert view is not None
    assert "b2" in view.takers, "it is a member all the same"
    bench.announce("b2", "up", "--wait")
    assert bench.row("b2")["out"] == "yes"
    wait_for(lambda: "b2" in bench.hops(), "b2 to be back")


@pytest.mark.parametrize("method", ["withdraw", "prepend", "med", "gshut"])
def test_each_way_to_drain_is_seen_at_the_router(bench: Bench, method: str) -> None:
    plain = bench.paths()
    assert set(plain) == set(FOUR)
    assert all(path.as_path == (65001,) and not path.communities for path in plain.values()), "the control"
    bench.announce("b2", "drain", "--method", method, "--wait")
    if method == "withdraw":
        wait_for(lambda: "b2" not in bench.paths(), "b2's path to go")
    else:
        wait_for(lambda: bench.paths().get("b2", plain["b2"]) != plain["b2"], "b2's path to change")
        path = bench.paths()["b2"]
        assert path.as_path == (65001,) * (4 if method == "prepend" else 1)
        assert (path.med == MED) is (method == "med")
        assert (GRACEFUL_SHUTDOWN in path.communities) is (method == "gshut")
        assert bench.row("b2")["desired"] == method
        assert "10.0.0.12" in str(bench.announce("b1", "status", "-o", "json")["vips"]), "it still announces"
    # BIRD does nothing about the community unless it is told to, as facts go; all else leaves the set.
    stays = method == "gshut" and bench.cluster.router == "bird"
    if not stays:
        wait_for(lambda: "b2" not in bench.hops(), "b2 to leave the next hops")
    print(f"{bench.cluster.router}: {method}: next hops {sorted(bench.hops())}")
    assert ("b2" in bench.hops()) is stays
    assert {node: path for node, path in bench.paths().items() if node != "b2"} == {
        node: path for node, path in plain.items() if node != "b2"
    }
    bench.announce("b2", "undrain", "--wait")
    wait_for(lambda: bench.paths() == plain, "the path of before")


def test_an_end_is_kept_over_a_restart_and_a_reboot(bench: Bench) -> None:
    """A reboot loses /run: the order is not there."""
    began = time.monotonic()
    bench.announce("b3", "down", "--for", "15s", "--reason", "repair", "--wait")
    bench.restart_agent("b3")
    assert "repair" in bench.row("b3")["why"]
    bench.restart_agent("b3", forget=True)
    row = bench.row("b3")
    assert (row["desired"], row["out"]) == ("withdrawn", "no")
    assert re.fullmatch(r"withdrawn by the operator until 20\d\d-\d\d-\d\d \d\d:\d\d:\d\dZ: repair", row["why"])
    assert "b3" not in bench.hops()
    wait_for(lambda: "b3" in bench.hops(), "b3 to be back by itself", 30)
    assert time.monotonic() - began > 14
    # The control: without an end it stays down.
    bench.announce("b3", "down", "--wait")
    bench.restart_agent("b3", forget=True)
    wait_for(lambda: bench.row("b3")["out"] == "no", "all to be decided")
    assert bench.row("b3")["why"] == "withdrawn by the operator"


def test_the_last_announcer_is_refused_without_force(bench: Bench) -> None:
    def others() -> Any:
        return bench.announce("b1", "status", "-o", "json")["vips"][0]["others"]

    wait_for(lambda: len(others()) == 3, "the others to be known")
    bench.announce("b2", "down", "--wait")
    bench.announce("b3", "drain", "--method", "prepend", "--wait")
    bench.announce("b4", "down", "--wait")
    wait_for(lambda: others() == ["10.0.0.13"], "b1 to know")
    bench.announce("b1", "down", "--wait")  # b3's way is longer, but it is one
    bench.announce("b1", "up", "--wait")
    bench.announce("b3", "drain", "--wait")
    wait_for(lambda: others() == [], "b1 to know")
    wait_for(lambda: bench.hops() == {"b1"}, "one next hop")
    for verb in (["announce", "down"], ["announce", "down", "--vip", VIP], ["announce", "drain"], ["drain"], ["leave"]):
        said = bench.lbctl("b1", *verb, code=1)
        assert said == (
            f"lbctl: {VIP}: no other node is known to announce it, so the traffic would have nowhere to go; bring up "
            "another node first, or use --force\n"
        )
    assert bench.hops() == {"b1"}
    assert bench.row("b1")["desired"] == "announced"
    bench.announce("b1", "drain", "--method", "prepend", "--wait")  # the route stays
    bench.announce("b2", "down", "--reason", "it is down: nothing is lost")
    bench.announce("b1", "down", "--force", "--wait")
    wait_for(lambda: bench.hops() == set(), "no next hop")
    bench.announce("b1", "up", "--wait")
    bench.announce("b1", "undrain", "--wait")
    wait_for(lambda: bench.hops() == {"b1"}, "b1 to be back")
    bench.lbctl("b1", "drain", "--force")
    wait_for(lambda: bench.hops() == set(), "no next hop")
    bench.lbctl("b1", "undrain")


def test_wait_waits_for_the_adj_rib_out(bench: Bench) -> None:
    """The control: while the relay is stopped nobody can say, and the command does not say so either."""
    with bench.relay_stopped("b2"):
        said = bench.announce("b2", "down", "--wait", "--timeout", "2s", code=4)
        assert said == (
            f"lbctl: not within 2 s: {VIP} at 10.0.0.1: in the adj-rib-out: yes; see `lbctl announce status`\n"
        )
        assert "b2" in bench.hops()
        assert bench.announce("b2", "check", code=1).startswith("WARNING: ")
    wait_for(lambda: "b2" not in bench.hops(), "b2 to leave the next hops")
    bench.announce("b2", "down", "--wait")
    assert bench.row("b2")["out"] == "no"


def test_up_waits_for_what_keeps_it_down(bench: Bench) -> None:
    bench.announce("b2", "drain", "--reason", "still", "--wait")
    bench.announce("b2", "down", "--wait")
    said = bench.announce("b2", "up", "--wait", "--timeout", "1s", code=4)
    assert f"not within 1 s: {VIP}: drained by the operator (withdraw): still" in said


def test_check_tells_a_monitoring_system(bench: Bench) -> None:
    assert bench.announce("b2", "check") == "OK: 1 of 1 VIPs announced, 1 of 1 sessions up\n"
    bench.announce("b2", "down", "--wait")
    assert bench.announce("b2", "check") == "OK: 0 of 1 VIPs announced, 1 of 1 sessions up\n"
    bench.announce("b2", "up", "--wait")
    bench.cluster.stop("b2", "speaker")
    try:
        wait_for(lambda: bench.announce("b2", "status", "-o", "json")["relay"] != "connected", "the relay to be missed")
        said = bench.announce("b2", "check", code=2)
        assert said.startswith("CRITICAL: ")
        assert "what the routers receive is not known" in said
        assert bench.announce("b2", "check", "-o", "json", code=2)["state"] == "critical"
    finally:
        bench.cluster.start("b2", "speaker")
    wait_for(lambda: "b2" in bench.hops(), "b2 to be back")
    wait_for(lambda: bench.announce("b2", "status", "-o", "json")["faults"] == [], "all fine")
    bench.cluster.kill("b2", "agent", signal.SIGTERM)
    wait_for(lambda: not bench.cluster.pids("b2", "agent"), "b2's agent to end")
    assert "no agent answers" in bench.announce("b2", "check", code=3)
    bench.cluster.start("b2", "agent")
    wait_for(lambda: bench.cluster.service_status("b2"), "b2's agent to be ready")


def test_watch_prints_changes_as_they_come(bench: Bench, tmp_path: Path) -> None:
    lines, text = tmp_path / "lines", tmp_path / "text"
    watching = [
        bench.cluster.lab.spawn("b2", ["lbctl", "announce", "watch", "--vip", VIP, "-o", "json"], log=lines),
        bench.cluster.lab.spawn("b2", ["lbctl", "announce", "watch"], log=text),
    ]

    def seen() -> list[tuple[str, str]]:
        return [(change["desired"], change["out"]) for change in map(json.loads, lines.read_text().splitlines())]

    wait_for(lambda: seen() == [("announced", "yes")] and text.read_text(), "the present state")
    bench.announce("b2", "down", "--wait")
    wait_for(lambda: seen()[1:] == [("withdrawn", "yes"), ("withdrawn", "no")], "the withdrawal")
    bench.announce("b2", "up", "--wait")
    wait_for(lambda: seen()[3:] == [("announced", "no"), ("announced", "yes")], "the announcement")
    wait_for(lambda: len(text.read_text().splitlines()) == 5, "the same in words")
    for process in watching:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert "Traceback" not in text.read_text()
    assert re.fullmatch(
        rf"\S+ \S+Z {re.escape(VIP)} at 10\.0\.0\.1: withdrawn, in adj-rib-out: no, session up: "
        "withdrawn by the operator",
        text.read_text().splitlines()[2],
    )


def test_watch_ends_with_the_agent(bench: Bench, tmp_path: Path) -> None:
    watching = bench.cluster.lab.spawn("b2", ["lbctl", "announce", "watch"], log=tmp_path / "text")
    wait_for(lambda: (tmp_path / "text").read_text(), "the present state")
    bench.restart_agent("b2")
    with contextlib.suppress(subprocess.TimeoutExpired):
        watching.wait(10)
    assert watching.returncode == 3
    assert "the agent has ended" in (tmp_path / "text").read_text().splitlines()[-1]


@pytest.fixture
def plain_anycast(bench: Bench) -> Iterator[str]:
    """b2 without a data path: it announces the VIP only while its own server is well."""
    stop_agent(bench, "b2")
    bench.cluster.lab.spawn("b2", ["lbctl", "agent", "run", "--xdp", "off"])
    wait_for(lambda: bench.cluster.agent_answers("b2") and "b2" in bench.hops(), "b2 to be back")
    yield "b2"
    if not bench.cluster.pids("b2", "server"):
        bench.cluster.start("b2", "server")
    stop_agent(bench, "b2")
    bench.cluster.start("b2", "agent")
    wait_for(lambda: bench.cluster.service_status("b2"), "b2's agent to be ready")


def stop_agent(bench: Bench, node: str) -> None:
    bench.cluster.kill(node, "agent", signal.SIGTERM)
    wait_for(lambda: not bench.cluster.pids(node, "agent"), f"{node}'s agent to end")


def test_flapping_vip_is_held_down(bench: Bench, plain_anycast: str) -> None:
    """The server dies and comes back three times: the route goes at once each time, and comes back ever later."""
    node = plain_anycast
    for hold_s in (2, 4, 8):
        bench.cluster.kill(node, "server")
        wait_for(lambda: node not in bench.hops(), "the VIP to be withdrawn")
        fell_at = time.monotonic()
        assert bench.announce(node, "check", code=1).startswith(f"WARNING: {VIP} is not announced: unhealthy: echo")
        bench.cluster.start(node, "server")
        if hold_s < 8:
            wait_for(lambda: node in bench.hops(), "the VIP to be back", 30)
            assert time.monotonic() - fell_at > hold_s - 1
    wait_for(lambda: bench.row(node)["why"].startswith("held down for 8 s after 3 faults"), "the hold-down")
    assert node not in bench.hops()
    # An operator knows better.
    bench.announce(node, "up", "--wait", "--timeout", "3s")
    wait_for(lambda: node in bench.hops(), "the VIP to be back")


@pytest.fixture
def second_vip(bench: Bench) -> Iterator[Callable[..., None]]:
    """Configures the second VIP on nodes; what it is given back takes it away again, on these nodes at once."""
    text = bench.file.read_text()
    service = f"{{name: second, vip: {SECOND}, protocol: tcp, port: 7000, forward: l2}}"

    def configure(*nodes: str) -> None:
        bench.file.write_text(text.replace("services:\n", f"services:\n  - {service}\n"))
        for node in nodes:
            bench.lbctl(node, "agent", "reload")
            bench.announce(node, "up", "--wait")
        wait_for(lambda: bench.routed(SECOND) and all(bench.on_lo(node, SECOND) for node in nodes), "the second VIP")
        bench.file.write_text(text)

    yield configure
    bench.file.write_text(text)
    for node in FOUR:
        if bench.on_lo(node, SECOND):
            bench.lbctl(node, "agent", "reload")
    wait_for(lambda: not any(bench.on_lo(node, SECOND) for node in FOUR), "the second VIP to be gone")


def test_a_vip_leaves_lo_after_the_router_has_heard(bench: Bench, second_vip: Callable[..., None]) -> None:
    """Its service was taken out of the configuration. The control: while the relay is stopped, it stays."""
    second_vip("b2")
    with bench.relay_stopped("b2"):
        bench.lbctl("b2", "agent", "reload")
        time.sleep(1.5)
        assert bench.routed(SECOND)
        assert bench.on_lo("b2", SECOND)
    deadline = time.monotonic() + 20
    while bench.on_lo("b2", SECOND):
        assert time.monotonic() < deadline
    assert not bench.routed(SECOND), "the router had lost the route before the VIP left lo"
    assert bench.on_lo("b2", VIP)


def test_no_connection_of_others_breaks_when_a_vip_is_taken_from_a_node(
    bench: Bench, second_vip: Callable[..., None]
) -> None:
    """Until the router has heard, it goes on sending b2 packets of connections that others hold."""
    second_vip(*FOUR)
    wait_for(
        lambda: bench.cluster.lab.exec("router", ["ip", "route", "show", SECOND]).stdout.count("via") == 4,
        "four next hops",
    )
    with inside_net(bench.cluster.lab.nodes["client"].pid):
        made = [
            socket.create_connection((SECOND, 7000), timeout=5, source_address=(f"10.1.1.{i + 1}", 0))
            for i in range(60)
        ]
    others = [connection for connection in made if talk(connection) != "b2"]
    assert len(others) > 20
    services = bench.cluster.request("b2", "GET", "/status")["services"]
    assert next(s for s in services if s["name"] == "second")["counters"]["forward_first"] > 0, "some come by b2"
    reloading = bench.cluster.lab.spawn("b2", ["lbctl", "agent", "reload"])
    deadline = time.monotonic() + 30
    while reloading.poll() is None or bench.on_lo("b2", SECOND):
        assert time.monotonic() < deadline
        for connection in others:
            assert talk(connection) != "b2"
    for connection in others:
        assert talk(connection) != "b2"
    for connection in made:
        connection.close()


def talk(connection: socket.socket) -> str:
    """Who answers; an error when the connection was broken."""
    connection.sendall(b"1\n")
    said = connection.recv(100)
    assert said, "the connection was closed"
    return said.split()[0].decode()
