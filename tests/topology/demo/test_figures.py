# SPDX-License-Identifier: Apache-2.0
"""The demo's figures and verdict, from observations: the pure parts of report, router_watch, frame_capture, cluster."""

import json
import socket
import struct
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from topology.demo.agent_client import ServiceStatus, read_service_status, tables_agree
from topology.demo.cluster import established_from, established_local_end
from topology.demo.daemon import is_daemon
from topology.demo.frame_capture import FrameCounts
from topology.demo.report import (
    CONTROL_STEPS,
    Convergence,
    Spread,
    StepResult,
    deviations,
    spread_deviations,
    spread_of,
    step_result,
    to_json,
    write_json,
)
from topology.demo.router_watch import NextHopHistory, next_hops_in
from topology.demo.scenario import FIVE, FOUR, NAT_SMALL, NAT_STEPS, SMALL, STEPS
from topology.traffic.connection import ATTEMPT_S
from topology.traffic.controller import ConnectionAttemptReport, HeldConnectionReport

OPEN = HeldConnectionReport("10.1.1.7:15000", "b1", "open", silence_s=0.1)
CONVERGENCE = Convergence(action_at=1000.0, router_ms=20, agree_ms=300)


# --- step results ----------------------------------------------------------------------------------------------------


def test_a_step_result_counts_connections_and_their_longest_silence() -> None:
    held = [OPEN, replace(OPEN, state="broken", reason="reset", silence_s=2.5), replace(OPEN, state="closed")]
    attempts = [ConnectionAttemptReport(1001.0, "ok", "b1"), ConnectionAttemptReport(1002.0, "")]
    assert step_result("drain", "anylb", held, attempts, CONVERGENCE) == StepResult(
        "drain", "anylb", 3, 1, 0, 0, 0, 0, 2500, 20, 300
    )


def test_connections_of_the_stopped_server_are_counted_apart() -> None:
    lost = HeldConnectionReport("10.1.1.8:15000", "b3", "broken", "silence", 1015.0, 15.0)
    result = step_result("crash", "anylb", [OPEN, lost, lost], [], CONVERGENCE, stopped="b3")
    assert (result.connections, result.broken, result.on_stopped, result.longest_silence_ms) == (3, 0, 2, 100)
    # Without a stopped server the same loss is a break.
    assert step_result("add", "anylb", [OPEN, lost, lost], [], CONVERGENCE).broken == 2


@pytest.mark.parametrize(
    ("started_at", "stopped", "late"),
    [
        (1000 - ATTEMPT_S, "b3", 0),  # under way when the server died
        (1000.2, "b3", 0),  # before convergence
        (1000.301, "b3", 1),  # after convergence
        (999.9 - ATTEMPT_S, "b3", 1),  # long before the action
        (1000.2, None, 1),  # no server was stopped: no excuse
    ],
)
def test_a_failed_new_connection_is_excused_only_before_convergence(
    started_at: float, stopped: str | None, late: int
) -> None:
    result = step_result(
        "crash", "anylb", [OPEN], [ConnectionAttemptReport(started_at, "timeout")], CONVERGENCE, stopped
    )
    assert (result.failed_new, result.failed_late) == (1, late)


def test_a_drained_server_may_take_new_connections_only_until_convergence() -> None:
    attempts = [ConnectionAttemptReport(at, "ok", "b2") for at in (999.0, 1000.2, 1000.4, 1003.0)]
    assert step_result("drain", "anylb", [OPEN], attempts, CONVERGENCE, idle="b2").taken_late == 2
    assert step_result("drain", "anylb", [OPEN], attempts, CONVERGENCE).taken_late == 0


# --- the verdict -----------------------------------------------------------------------------------------------------

GOOD = StepResult("add", "anylb", 400, 0, 0, 0, 0, 0, 110, 5, 30)
CONTROL = StepResult("add", "ecmp", 400, 40, 0, 3, 3, 0, 110, 5, None)


def test_expected_results_have_no_deviations() -> None:
    assert deviations([GOOD, CONTROL]) == []
    assert deviations([replace(GOOD, failed_new=7, on_stopped=80)]) == []
    assert deviations([replace(CONTROL, step="spread", broken=0, failed_late=0)]) == []
    assert deviations([replace(CONTROL, step="crash", broken=32, on_stopped=80)]) == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (replace(GOOD, broken=1), "add: anylb broke 1 of 400 connections, expected none"),
        (replace(GOOD, failed_late=2), "add: anylb failed 2 new connections without excuse, expected none"),
        (replace(GOOD, taken_late=3), "add: a server took 3 new connections that it must not take"),
        (replace(CONTROL, broken=39), "add: plain ECMP broke only 39 of 400 connections, expected 10% at least"),
        (replace(CONTROL, step="crash", broken=31, on_stopped=80), "crash: plain ECMP broke only 31 of 320"),
    ],
)
def test_each_deviation_is_a_line(bad: StepResult, message: str) -> None:
    (found,) = deviations([GOOD, CONTROL, bad])
    assert found.startswith(message)


def test_a_spread_needs_direct_answers_and_forwarding() -> None:
    counters = {"b1": Counter(forward_first=3), "b2": Counter(forward_first=1)}
    good = Spread(Counter(b1=1), Counter(b1=1), direct=10, indirect=0, missed=0, counters=counters)
    assert spread_deviations("anylb", good) == []
    assert spread_deviations("ecmp", replace(good, counters={})) == []
    assert spread_deviations("ecmp", replace(good, indirect=5)) == [
        "spread: ecmp: 5 answers came through another node, 10 directly"
    ]
    assert spread_deviations("ecmp", replace(good, direct=0)) == [
        "spread: ecmp: 0 answers came through another node, 0 directly"
    ]
    idle = replace(good, counters={**counters, "b2": Counter(rx=9)})
    assert spread_deviations("anylb", idle) == ["spread: anylb: a node forwarded nothing to owners"]


def test_demo_json_has_exactly_its_keys(tmp_path: Path) -> None:
    file = tmp_path / "demo.json"
    write_json(file, "bird", [GOOD, CONTROL])
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_text() == to_json("bird", [GOOD, CONTROL])
    data = json.loads(file.read_text())
    assert data["router"] == "bird"
    figures = ("connections", "broken", "on_stopped", "failed_new", "longest_silence_ms", "router_ms", "agree_ms")
    assert [list(step) for step in data["steps"]] == [["step", "lab", *figures]] * 2
    assert list(data["steps"][1].values()) == ["add", "ecmp", 400, 40, 0, 3, 110, 5, None]


# --- the router ------------------------------------------------------------------------------------------------------


def leg(gateway: str, flags: int = 0) -> dict[str, object]:
    return {"attrs": [("RTA_GATEWAY", gateway)], "flags": flags}


def route(destination: str, length: int, *attrs: tuple[str, object]) -> dict[str, object]:
    return {"dst_len": length, "flags": 0, "attrs": [("RTA_TABLE", 254), ("RTA_DST", destination), *attrs]}


def test_next_hops_are_those_of_the_vip_over_live_links() -> None:
    routes = [
        route("10.99.0.0", 16, ("RTA_GATEWAY", "10.0.0.9")),
        route("10.99.0.1", 32, ("RTA_MULTIPATH", [leg("10.0.0.11"), leg("10.0.0.12", flags=1), leg("10.0.0.13")])),
    ]
    assert next_hops_in(routes, "10.99.0.1") == {"10.0.0.11", "10.0.0.13"}
    assert next_hops_in([route("10.99.0.1", 32, ("RTA_GATEWAY", "10.0.0.11"))], "10.99.0.1") == {"10.0.0.11"}
    assert next_hops_in(routes[:1], "10.99.0.1") == frozenset()


def test_the_router_converges_with_its_last_change() -> None:
    two, one = frozenset({"a", "b"}), frozenset({"a"})
    history = NextHopHistory()
    for hops, now in ((two, 10.0), (two, 11.0), (one, 12.0), (two, 12.5)):
        history.add(hops, now)
    assert history.converged_after_ms(two, since=11.5) == 1000
    assert history.changes(since=11.5) == [one, two]
    assert history.converged_after_ms(two, since=13.0) == 0
    assert history.changes(since=13.0) == []
    assert history.converged_after_ms(one, since=11.5) is None


# --- frames ----------------------------------------------------------------------------------------------------------

VIP, CLIENT = "10.99.0.1", "10.1.1.7"
MACS = {
    "b1": bytes.fromhex("020000000001"),
    "b2": bytes.fromhex("020000000002"),
    "router": bytes.fromhex("0200000000ff"),
}


def frame(source_mac: bytes, target_mac: bytes, source: tuple[str, int], target: tuple[str, int], data: bytes) -> bytes:
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(target[0])
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 52 + len(data), 0, 0, 64, 6, 0) + addresses
    tcp = struct.pack("!HHIIBBHHH", source[1], target[1], 0, 0, 8 << 4, 0x18, 1, 0, 0) + bytes(12)
    return target_mac + source_mac + b"\x08\x00" + ip + tcp + data


def test_frames_show_the_ingress_and_whether_answers_are_direct() -> None:
    frames = FrameCounts(VIP, 7000, {name: MACS[name] for name in ("b1", "b2")})
    client = (CLIENT, 15000)
    frames.count(frame(MACS["router"], MACS["b1"], client, (VIP, 7000), b"17\n"))
    frames.count(frame(MACS["b2"], MACS["router"], (VIP, 7000), client, b"b2 17\n"))
    frames.count(frame(MACS["b1"], MACS["router"], (VIP, 7000), client, b"b2 18\n"))
    frames.count(frame(MACS["b1"], MACS["router"], (VIP, 7000), client, b""))  # a bare acknowledgement names no server
    frames.count(frame(MACS["b1"], MACS["router"], ("10.0.0.11", 179), ("10.0.0.1", 40000), b"b9 1\n"))  # BGP
    frames.count(frame(MACS["b2"], MACS["router"], (VIP, 7000), client, b"")[:54] + b"b2 1\n")  # padding
    frames.count(b"\xff" * 60)
    assert frames.ingress == {"10.1.1.7:15000": {"b1"}}
    assert (frames.direct, frames.indirect) == (1, 1)
    assert frames.replies == {("b2", "b2"): 1, ("b1", "b2"): 1}

    spread = spread_of([replace(OPEN, owner="b2"), replace(OPEN, source="10.1.1.9:1")], frames, {})
    assert spread.ingress == Counter({"b1": 1, "unseen": 1})
    assert spread.owner == Counter({"b1": 1, "b2": 1})


# --- the cluster -----------------------------------------------------------------------------------------------------


def status(*members: tuple[str, str, int], ready: bool = True) -> dict[str, object]:
    listed = [{"address": address, "state": state, "effective": effective} for address, state, effective in members]
    return {"ready": ready, "tables_written": True, "services": [{"name": "echo", "digest": "d1", "members": listed}]}


def test_a_service_status_names_the_nodes_that_take_new_connections() -> None:
    reply = status(
        ("10.0.0.11", "up", 100), ("10.0.0.12", "draining", 0), ("10.0.0.13", "up", 0), ("10.0.0.14", "lost", 0)
    )
    names = {f"10.0.0.1{n}": f"b{n}" for n in range(1, 6)}
    assert read_service_status(reply, names) == ServiceStatus("d1", frozenset({"b1"}), FOUR - {"b4"})
    assert read_service_status({**reply, "ready": False}, names) is None
    late = read_service_status({**reply, "tables_written": False}, names)
    assert late is not None
    assert not late.written


def test_tables_agree_if_every_status_is_equal_and_as_expected() -> None:
    four = ServiceStatus("d1", FOUR, FOUR)
    assert tables_agree([four, four], FOUR, frozenset())
    assert tables_agree([four, four], FOUR, frozenset({"b5"}))
    assert not tables_agree([four, None], FOUR, frozenset())
    assert not tables_agree([four, replace(four, digest="d2")], FOUR, frozenset())
    assert not tables_agree([four, replace(four, written=False)], FOUR, frozenset())
    assert not tables_agree([four, four], FIVE, frozenset())
    assert not tables_agree([four, four], FOUR, frozenset({"b2"}))


@pytest.mark.parametrize(
    ("argv", "daemon"),
    [
        ("/x/.venv/bin/python /x/.venv/bin/lbctl agent run", "agent"),
        ("/x/.venv/bin/python -P -m bgp.exabgp.connect server /run/anylb-bgp/exabgp.conf", "speaker"),
        ("/usr/bin/python3.11 -I -S /run/anylb-bgp/relay.pyz --socket /run/anylb-bgp/relay.sock", "relay"),
        ("python -m topology.traffic.server", "server"),
        ("/x/.venv/bin/python /x/.venv/bin/lbctl bgp run", "speaker"),
        ("bird -c /etc/bird/bird.conf", None),
    ],
)
def test_daemons_are_known_by_their_command_line(argv: str, daemon: str | None) -> None:
    known = [name for name in ("agent", "speaker", "relay", "server") if is_daemon(name, argv.split())]
    assert known == ([daemon] if daemon else [])


def test_a_bgp_session_has_a_local_end() -> None:
    table = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n"
        "   0: 00000000:1B58 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n"
        "   1: 0B00000A:A2C1 0100000A:00B3 06 00000000:00000000 00:00000000 00000000\n"
        "   2: 0B00000A:A2C2 0100000A:00B3 01 00000000:00000000 00:00000000 00000000\n"
    )
    assert established_local_end(179, table) == "0B00000A:A2C2"
    assert established_local_end(7000, table) is None


def test_connections_to_a_port_are_named_by_their_clients() -> None:
    table = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n"
        "   0: 00000000:1B58 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n"
        "   1: 0100630A:1B58 0701010A:3A98 01 00000000:00000000 00:00000000 00000000\n"
        "   2: 0100630A:1B58 0801010A:3A98 06 00000000:00000000 00:00000000 00000000\n"
        "   3: 0B00000A:A2C2 0100000A:00B3 01 00000000:00000000 00:00000000 00000000\n"
    )
    assert established_from(7000, table) == {"10.1.1.7:15000"}
    assert established_from(80, table) == frozenset()


def test_the_scenario_has_the_steps_that_the_verdict_needs() -> None:
    names = [step.name for step in STEPS]
    assert names == [
        "spread",
        "add",
        "drain",
        "return",
        "session_loss",
        "session_clear",
        "agent_restart",
        "service_down",
        "double",
        "crash",
        "replace",
    ]
    assert {"spread", *CONTROL_STEPS} - {"double"} == {step.name for step in SMALL} - {"service_down"}
    replaced = {"spread": "rest", "service_down": "backend_down"}
    assert [step.name for step in NAT_STEPS] == [replaced.get(name, name) for name in names]
    assert {"add", "drain", "return", "backend_down", "crash", "replace"} <= {step.name for step in NAT_SMALL}
