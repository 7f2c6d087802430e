# SPDX-License-Identifier: Apache-2.0
"""lbctl announce on a running cluster: the effect of each command at a real router, BIRD 2 and FRR.

    client ── router ── segment ──┬── b1 … b4, each with ExaBGP, relay, agent and echo server
                                  └── b5, unused

Every test leaves all four announced. The router itself is asked: its kernel for next hops, its BGP for attributes.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.announce_lab import SECOND, Announcing, announce_lab
from support.cluster_lab import FOUR, server_of
from support.waiting import wait_for

from agent.announcing.loopback import CONVERGE_S
from agent.announcing.routes import GRACEFUL_SHUTDOWN, MED
from topology.demo.cluster import VIP

pytestmark = pytest.mark.lab
BY_BIRD = pytest.mark.parametrize("running", ["bird"], indirect=True)
"""What the router's kind does not change: tests of the agent's orders and of lbctl."""


@pytest.fixture(scope="module", params=["bird", "frr"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Announcing]:
    with announce_lab(request.param, tmp_path_factory.mktemp("announce")) as made:
        yield made


@pytest.fixture
def lab(running: Announcing) -> Iterator[Announcing]:
    yield running
    for node in FOUR:
        for path in ("/announce", "/announce/undrain"):
            running.cluster.request(node, "POST", path)
    wait_for(running.at_rest, "all four to announce")


@BY_BIRD
def test_status_names_each_vip_and_peer(lab: Announcing) -> None:
    output = lab.announce("b1", "status", "-o", "json")
    (vip,), (row,) = output["vips"], output["peers"]
    assert {key: row[key] for key in ("vip", "peer", "desired", "out", "session", "why")} == {
        "vip": VIP, "peer": "10.0.0.1", "desired": "announced", "out": "yes", "session": "up", "why": "healthy",
    }  # fmt: skip
    assert 0 <= row["since_s"] < 300
    assert sorted(vip["others"]) == ["10.0.0.12", "10.0.0.13", "10.0.0.14"]
    assert output["relay"] == "connected"
    text = lab.announce("b1", "status")
    for word in (VIP, "10.0.0.1", "announced", "yes", "up", "healthy", "also announced by 10.0.0.12"):
        assert word in text


def test_down_is_gone_when_wait_returns(lab: Announcing) -> None:
    assert lab.announce("b2", "down", "--vip", VIP, "--reason", "new [kernel]", "--wait") == f"withdrawn: {VIP}\n"
    row = lab.row("b2")
    assert (row["desired"], row["out"], row["why"]) == ("withdrawn", "no", "withdrawn by the operator: new [kernel]")
    assert "new [kernel]" in " ".join(lab.announce("b2", "status").split())
    wait_for(lambda: "b2" not in lab.paths() and lab.next_hops() == {"b1", "b3", "b4"}, "b2 to leave the router")
    wait_for(lambda: "10.0.0.12" not in str(lab.status("b1")["vips"]), "the others to learn it")
    view = lab.cluster.service_status("b1")
    assert view is not None
    assert "b2" in view.takers, "it is still a member"
    lab.announce("b2", "up", "--wait")
    assert lab.row("b2")["out"] == "yes"
    wait_for(lambda: "b2" in lab.next_hops(), "b2 to be back")


@pytest.mark.parametrize("method", ["withdraw", "prepend", "med", "gshut"])
def test_each_drain_method_reaches_the_router(lab: Announcing, method: str) -> None:
    plain = lab.paths()
    assert set(plain) == set(FOUR)
    assert all(path.as_path == (65001,) and not path.communities for path in plain.values()), "the control"
    lab.announce("b2", "drain", "--method", method, "--wait")
    if method == "withdraw":
        wait_for(lambda: "b2" not in lab.paths(), "b2's path to go")
    else:
        wait_for(lambda: lab.paths().get("b2", plain["b2"]) != plain["b2"], "b2's path to change")
        path = lab.paths()["b2"]
        assert path.as_path == (65001,) * (4 if method == "prepend" else 1)
        assert (path.med == MED) is (method == "med")
        assert (GRACEFUL_SHUTDOWN in path.communities) is (method == "gshut")
        assert lab.row("b2")["desired"] == method
        assert "10.0.0.12" in str(lab.status("b1")["vips"]), "it still announces"
    # BIRD ignores the community without a filter for it; every other method removes the next hop.
    stays = method == "gshut" and lab.cluster.router == "bird"
    if not stays:
        wait_for(lambda: "b2" not in lab.next_hops(), "b2 to leave the next hops")
    print(f"{lab.cluster.router}: {method}: next hops {sorted(lab.next_hops())}")
    assert ("b2" in lab.next_hops()) is stays
    assert {node: path for node, path in lab.paths().items() if node != "b2"} == {
        node: path for node, path in plain.items() if node != "b2"
    }
    lab.announce("b2", "undrain", "--wait")
    wait_for(lambda: lab.paths() == plain, "the earlier path")


@BY_BIRD
def test_an_end_time_survives_a_restart_and_a_reboot(lab: Announcing) -> None:
    """A reboot loses /run: the order is not in it."""
    lab.announce("b3", "down", "--for", "10m", "--reason", "repair", "--wait")
    wait_for(lambda: "b3" not in lab.next_hops(), "b3 to leave the router")
    left_at = time.monotonic()
    lab.restart_agent("b3")
    assert "repair" in lab.row("b3")["why"]
    lab.restart_agent("b3", lose_state=True)
    wait_for(lambda: (lab.row("b3")["desired"], lab.row("b3")["out"]) == ("withdrawn", "no"), "the order to apply")
    why = lab.row("b3")["why"]
    assert re.fullmatch(r"withdrawn by the operator until 20\d\d-\d\d-\d\d \d\d:\d\d:\d\dZ: repair", why)
    assert not any("10.0.0.13" in hops for hops in lab.watch.history.changes(left_at)), "it did not come back meanwhile"
    began = time.monotonic()
    lab.announce("b3", "down", "--for", "5s")  # in place of the other; it may end while no agent runs
    lab.restart_agent("b3", lose_state=True)
    wait_for(lambda: "b3" in lab.next_hops(), "b3 to be back without a command")
    assert time.monotonic() - began > 4
    # The control: without an end it stays down.
    lab.announce("b3", "down", "--wait")
    lab.restart_agent("b3", lose_state=True)
    wait_for(lambda: (lab.row("b3")["desired"], lab.row("b3")["out"]) == ("withdrawn", "no"), "the order to apply")
    assert lab.row("b3")["why"] == "withdrawn by the operator"


@BY_BIRD
def test_the_last_announcer_is_refused_without_force(lab: Announcing) -> None:
    lab.announce("b2", "down", "--wait")
    lab.announce("b3", "drain", "--method", "prepend", "--wait")
    lab.announce("b4", "down", "--wait")
    wait_for(lambda: lab.others("b1") == ["10.0.0.13"], "b1 to know")
    lab.announce("b1", "down", "--wait")  # b3's path is longer, but it is one
    wait_for(lambda: lab.others("b3") == [], "b3 to know")
    lab.announce("b1", "up", "--wait")
    wait_for(lambda: lab.others("b3") == ["10.0.0.11"], "b3 to know")
    lab.announce("b3", "drain", "--wait")
    wait_for(lambda: lab.others("b1") == [], "b1 to know")
    wait_for(lambda: lab.next_hops() == {"b1"}, "one next hop")
    for verb in (["announce", "down"], ["announce", "down", "--vip", VIP], ["announce", "drain"], ["drain"], ["leave"]):
        output = lab.cluster.lbctl("b1", *verb, code=1)
        assert output == (
            f"lbctl: {VIP}: no other node is known to announce it, so the traffic would have nowhere to go; bring up "
            "another node first, or use --force\n"
        )
    assert lab.next_hops() == {"b1"}
    assert lab.row("b1")["desired"] == "announced"
    lab.announce("b1", "drain", "--method", "prepend", "--wait")  # the route stays
    lab.announce("b2", "down", "--reason", "it is down: nothing is lost")
    lab.announce("b1", "down", "--force", "--wait")
    wait_for(lambda: lab.next_hops() == set(), "no next hop")
    lab.announce("b1", "up", "--wait")
    lab.announce("b1", "undrain", "--wait")
    wait_for(lambda: lab.next_hops() == {"b1"}, "b1 to be back")
    lab.cluster.lbctl("b1", "drain", "--force")
    wait_for(lambda: lab.next_hops() == set(), "no next hop")
    lab.cluster.lbctl("b1", "undrain")


@BY_BIRD
def test_wait_waits_for_the_adj_rib_out(lab: Announcing) -> None:
    """The control: while the relay is stopped the adj-RIB-out is unknown, and the command does not succeed."""
    with lab.relay_stopped("b2"):
        output = lab.announce("b2", "down", "--wait", "--timeout", "2s", code=4)
        assert output == (
            f"lbctl: not within 2 s: {VIP} at 10.0.0.1: in the adj-rib-out: yes; see `lbctl announce status`\n"
        )
        assert "b2" in lab.next_hops()
        assert lab.announce("b2", "check", code=1).startswith("WARNING: ")
    wait_for(lambda: "b2" not in lab.next_hops(), "b2 to leave the next hops")
    lab.announce("b2", "down", "--wait")
    assert lab.row("b2")["out"] == "no"


@BY_BIRD
def test_up_waits_and_names_the_order_that_withdraws(lab: Announcing) -> None:
    lab.announce("b2", "drain", "--reason", "still", "--wait")
    lab.announce("b2", "down", "--wait")
    output = lab.announce("b2", "up", "--wait", "--timeout", "1s", code=4)
    assert f"not within 1 s: {VIP}: drained by the operator (withdraw): still" in output


@BY_BIRD
def test_check_reports_to_a_monitoring_system(lab: Announcing) -> None:
    assert lab.announce("b2", "check") == "OK: 1 of 1 VIPs announced, 1 of 1 sessions up\n"
    lab.announce("b2", "down", "--wait")
    assert lab.announce("b2", "check") == "OK: 0 of 1 VIPs announced, 1 of 1 sessions up\n"
    lab.announce("b2", "up", "--wait")
    lab.cluster.stop("b2", "speaker")
    try:
        wait_for(lambda: lab.status("b2")["relay"] != "connected", "the agent to miss the relay")
        output = lab.announce("b2", "check", code=2)
        assert output.startswith("CRITICAL: ")
        assert "what the routers receive is not known" in output
        assert lab.announce("b2", "check", "-o", "json", code=2)["state"] == "critical"
    finally:
        lab.cluster.start("b2", "speaker")
    wait_for(lambda: "b2" in lab.next_hops(), "b2 to be back")
    wait_for(lambda: lab.status("b2")["faults"] == [], "no faults")
    lab.cluster.stop_agent("b2")
    assert "no agent answers" in lab.announce("b2", "check", code=3)
    lab.cluster.start_agent("b2")


@BY_BIRD
def test_watch_prints_changes_as_they_happen(lab: Announcing, tmp_path: Path) -> None:
    lines, text = tmp_path / "lines", tmp_path / "text"
    watching = [
        lab.cluster.lab.spawn("b2", ["lbctl", "announce", "watch", "--vip", VIP, "-o", "json"], log=lines),
        lab.cluster.lab.spawn("b2", ["lbctl", "announce", "watch"], log=text),
    ]

    def seen() -> list[tuple[str, str]]:
        return [(change["desired"], change["out"]) for change in map(json.loads, lines.read_text().splitlines())]

    wait_for(lambda: seen() == [("announced", "yes")] and text.read_text(), "the current state")
    lab.announce("b2", "down", "--wait")
    wait_for(lambda: seen()[1:] == [("withdrawn", "yes"), ("withdrawn", "no")], "the withdrawal")
    lab.announce("b2", "up", "--wait")
    wait_for(lambda: seen()[3:] == [("announced", "no"), ("announced", "yes")], "the announcement")
    wait_for(lambda: len(text.read_text().splitlines()) == 5, "the same as text")
    for process in watching:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert "Traceback" not in text.read_text()
    assert re.fullmatch(
        rf"\S+ \S+Z {re.escape(VIP)} at 10\.0\.0\.1: withdrawn, in adj-rib-out: no, session up: "
        "withdrawn by the operator",
        text.read_text().splitlines()[2],
    )


@BY_BIRD
def test_watch_ends_with_the_agent(lab: Announcing, tmp_path: Path) -> None:
    watching = lab.cluster.lab.spawn("b2", ["lbctl", "announce", "watch"], log=tmp_path / "text")
    wait_for(lambda: (tmp_path / "text").read_text(), "the current state")
    lab.restart_agent("b2")
    assert watching.wait(60) == 3
    assert "the agent has ended" in (tmp_path / "text").read_text().splitlines()[-1]


@pytest.fixture
def plain_anycast(lab: Announcing) -> Iterator[str]:
    """b2 without a data path: it announces the VIP only while its own server is healthy."""
    log = lab.cluster.lab.root("b2") / "var/log/anylb/agent.log"
    lab.cluster.stop_agent("b2")
    lab.cluster.lab.spawn("b2", ["lbctl", "agent", "run", "--xdp", "off"], log)
    wait_for(lambda: lab.cluster.agent_answers("b2") and lab.is_announced("b2"), "b2 to be back")
    yield "b2"
    if not lab.cluster.pids("b2", "server"):
        lab.cluster.start("b2", "server")
    lab.cluster.stop_agent("b2")
    lab.cluster.start_agent("b2")


@BY_BIRD
def test_flapping_vip_is_held_down(lab: Announcing, plain_anycast: str) -> None:
    """The server dies and comes back three times: the route goes at once each time, and comes back ever later."""
    node = plain_anycast
    lab.announce(node, "up")
    assert lab.fault(node) is None, "no fault before counts"
    for count, hold_s in enumerate((2, 4, 8), 1):
        lab.cluster.kill(node, "server")
        expected = hold_s, count
        wait_for(lambda expected=expected: (lab.fault(node) or ())[1:] == expected, "the fault")
        failed_at, *_ = lab.fault(node) or (0.0,)
        wait_for(lambda: node not in lab.next_hops(), "the VIP to be withdrawn")
        if count == 1:
            output = lab.announce(node, "check", code=1)
            assert output.startswith(f"WARNING: {VIP} is not announced: unhealthy: echo")
        lab.cluster.start(node, "server")
        if hold_s < 8:
            wait_for(lambda: node in lab.next_hops(), "the VIP to be back")
            assert time.monotonic() >= failed_at + hold_s
    log = lab.cluster.lab.root(node) / "var/log/anylb/agent.log"
    wait_for(lambda: "held down for 8 s after 3 faults in a row" in log.read_text(), "the hold-down")
    # An operator ends it: it is forgotten, which its end alone does not do.
    lab.announce(node, "up", "--wait")
    wait_for(lambda: node in lab.next_hops(), "the VIP to be back")
    assert lab.fault(node) is None


@pytest.fixture
def second_vip(lab: Announcing) -> Iterator[Callable[..., None]]:
    """Configure the second VIP on nodes, then restore the file's text; remove the VIP from them at the end."""
    text = lab.file.read_text()
    service = f"{{name: second, vip: {SECOND}, protocol: tcp, port: 7000, forward: l2}}"

    def configure(*nodes: str) -> None:
        lab.file.write_text(text.replace("services:\n", f"services:\n  - {service}\n"))
        for node in nodes:
            lab.cluster.lbctl(node, "agent", "reload")
            lab.announce(node, "up", "--wait")
        wait_for(lambda: lab.routed(SECOND) and all(lab.on_lo(node, SECOND) for node in nodes), "the second VIP")
        lab.file.write_text(text)

    yield configure
    lab.file.write_text(text)
    for node in FOUR:
        if lab.on_lo(node, SECOND):
            lab.cluster.lbctl(node, "agent", "reload")
    wait_for(lambda: not any(lab.on_lo(node, SECOND) for node in FOUR), "the second VIP to be gone")


def test_a_vip_leaves_lo_after_the_router_has_withdrawn_it(lab: Announcing, second_vip: Callable[..., None]) -> None:
    """Its service is removed from the configuration. The control: while the relay is stopped, it stays."""
    second_vip("b2")
    with lab.relay_stopped("b2"):
        lab.cluster.lbctl("b2", "agent", "reload")
        time.sleep(1.5 * CONVERGE_S)
        assert lab.routed(SECOND)
        assert lab.on_lo("b2", SECOND)
        continued_at = time.monotonic()
    wait_for(lambda: not lab.on_lo("b2", SECOND), "the VIP to leave lo")
    assert time.monotonic() >= continued_at + CONVERGE_S, "the router had time to act"
    wait_for(lambda: not lab.routed(SECOND), "the router to have acted")
    assert lab.on_lo("b2", VIP)


def test_no_connection_of_others_breaks_when_a_vip_is_removed_from_a_node(
    lab: Announcing, second_vip: Callable[..., None]
) -> None:
    """Until the router has withdrawn the route, it sends b2 packets of connections that others hold."""
    second_vip(*FOUR)
    wait_for(lambda: lab.cluster.next_hops(SECOND) == set(FOUR) and lab.shares("second"), "all four to serve")
    made = lab.cluster.connect_many(120, SECOND)  # of all, 3/16 enter by b2 and are another's: none of 120 does never
    others = [connection for connection in made if server_of(connection) != "b2"]
    assert len(others) > 20
    services = lab.cluster.request("b2", "GET", "/status")["services"]
    assert next(s for s in services if s["name"] == "second")["counters"]["forward_first"] > 0, "some enter by b2"
    reloading = lab.cluster.lab.spawn("b2", ["lbctl", "agent", "reload"])
    deadline = time.monotonic() + 120
    while reloading.poll() is None or lab.on_lo("b2", SECOND):
        assert time.monotonic() < deadline
        for connection in others:
            assert server_of(connection) != "b2"
    for connection in others:
        assert server_of(connection) != "b2"
    for connection in made:
        connection.close()
