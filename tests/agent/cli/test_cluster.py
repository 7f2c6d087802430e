# SPDX-License-Identifier: Apache-2.0
"""lbctl cluster and top --cluster: rates by each node's own clock, its part of the whole, and what is wrong, once."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.cli.cluster_display import cluster_lines, load_lines, with_rates
from agent.cli.table import print_line, shortened

Run = Callable[..., tuple[str, str]]


def overview(read_s: float, routers: int = 0, forwarded: int = 0, **changed: Any) -> dict[str, Any]:
    load = {"from_routers": routers, "from_nodes": 0, "new": 0, "forwarded": forwarded, "dropped": 0, "held": 1_500}
    return {
        "state": "up", "verdict": "ok", "ready": True, "attached": True, "relay": True, "epoch": 10,
        "same_view": True, "same_tables": True, "services": {"well": 2, "all": 2}, "vips": {"well": 1, "all": 1},
        "sessions": {"well": 2, "all": 2}, "faults": 0, "first_fault": None, "read_ns": int(read_s * 1e9), "load": load,
        "tcp": {"accepted": 1_000, "resets": 10},
    } | changed  # fmt: skip


def report(*overviews: dict[str, Any] | None, why: str = "does not answer", **changed: Any) -> dict[str, Any]:
    """A report of members from 10.0.0.11 on; one without an overview does not answer."""
    other = {"why": why} | changed
    members = [
        {"address": f"10.0.0.{number}", "state": "up", "silent_s": None, "release": "0.2.0",
         "answers": found is not None, "why": None, "overview": found} | ({} if found else other)
        for number, found in enumerate(overviews, 11)
    ]  # fmt: skip
    return {"node": "10.0.0.11", "cluster": 7, "members": members}


def rates(before: dict[str, Any], after: dict[str, Any]) -> list[Any]:
    return [one["overview"] and one["overview"]["rates"] for one in with_rates(before, after)["members"]]


def test_rates_are_over_each_nodes_own_time_and_shares_over_all() -> None:
    before = report(overview(10, routers=1_000, forwarded=100), overview(500, routers=0))
    after = report(overview(12, routers=1_600, forwarded=160), overview(501, routers=100, forwarded=10))
    one, two = rates(before, after)
    assert (one["from_routers"], one["forwarded"]) == (300.0, 30.0)
    assert (two["from_routers"], two["forwarded"]) == (100.0, 10.0)
    assert [(one["ecmp_share"], one["forward_share"]) for one in (one, two)] == [(0.75, 0.75), (0.25, 0.25)]


def test_a_counter_that_begins_again_counts_from_0() -> None:
    assert rates(report(overview(1, routers=900)), report(overview(2, routers=50)))[0]["from_routers"] == 50.0


def test_without_two_readings_there_are_no_rates_and_without_packets_no_shares() -> None:
    assert rates(report(None), report(overview(1))) == [None]
    assert rates(report(overview(1)), report(overview(1))) == [None], "the same reading"
    assert rates(report(overview(1)), report(None)) == [None]
    assert rates(report(overview(1)), report(overview(2)))[0]["ecmp_share"] is None


def lines(*overviews: dict[str, Any] | None, **changed: Any) -> list[str]:
    return list(cluster_lines(with_loads(report(*overviews, **changed)), 10_000))


def test_a_row_for_each_member() -> None:
    head, headings, one, two = lines(overview(5, routers=3_000), overview(5, routers=1_000, forwarded=10))
    assert head == (
        "cluster 7, asked from 10.0.0.11: 2 members, 2 up, 2 answer; release 0.2.0; epoch 0xa; "
        "all that answer have the same tables"
    )
    assert headings.split() == ["member", "state", *"BGP VIPs health faults routers/s forwarded/s held".split()]  # noqa: SIM905
    assert one.split() == ["10.0.0.11", "up", "2/2", "1/1", "2/2", "0", "3,000", "(75%)", "0", "(0%)", "1,500"]
    assert two.split()[6:] == ["1,000", "(25%)", "10", "(100%)", "1,500"]


def test_what_fails_comes_first_and_a_fault_of_several_once() -> None:
    fault = {"verdict": "warning", "faults": 2, "first_fault": "10.0.0.13 does not answer"}
    found = lines(overview(5), overview(5, **fault), None, overview(5, **fault), state="lost", silent_s=90.0)
    assert [line.split()[0] for line in found[2:6]] == ["10.0.0.13", "10.0.0.12", "10.0.0.14", "10.0.0.11"]
    assert found[2].split() == ["10.0.0.13", "silent", "1", "m"]
    assert found[6:] == ["10.0.0.13: does not answer", "10.0.0.12, 10.0.0.14: 10.0.0.13 does not answer"]


def test_other_tables_and_drops_have_columns_of_their_own_and_releases_a_line_each() -> None:
    other = overview(5, same_tables=False, same_view=False)
    found = lines(
        overview(5, load=overview(5)["load"] | {"dropped": 7}), other, None, release="0.1.9", why="older release"
    )
    assert "1 with other tables" in found[0]
    assert "release 0.1.9, 0.2.0" in found[0]
    assert found[1].split()[:3] == ["member", "state", "tables"]
    assert found[2].split()[:4] == ["10.0.0.12", "up", "other", "view"]
    assert found[3].split() == ["10.0.0.13", "up"]
    assert found[4].split()[-1] == "7"
    assert found[5:] == [
        "release 0.1.9: 10.0.0.13",
        "release 0.2.0: 10.0.0.12, 10.0.0.11",
        "10.0.0.13: older release",
    ]


def extreme(count: int = 64) -> dict[str, Any]:
    """A report of as many members with the longest addresses, states, releases and counts that the channel carries."""
    most = 2**64 - 1
    load = dict.fromkeys(("from_routers", "from_nodes", "new", "forwarded", "dropped", "held"), most)
    counts = {kind: {"well": 65_535, "all": 65_535} for kind in ("services", "vips", "sessions")}
    fault = "2001:db8:1234:5678:9abc:def0:1234:5678 down for 3 m: the hold timer expired; see its log"
    found = overview(
        5, state="draining", same_tables=False, same_view=False, load=load, faults=65_535, first_fault=fault, **counts
    )
    made = report(*(copy.deepcopy(found) for _ in range(count)), None, state="lost", silent_s=86_400.0 * 9_999)
    for number, one in enumerate(made["members"]):
        one["address"] = f"255.255.255.{100 + number}"
        one["release"] = f"{number % 3}" * 64
    return made


def with_loads(after: dict[str, Any]) -> dict[str, Any]:
    before = copy.deepcopy(after)
    for one in before["members"]:
        if one["overview"]:
            one["overview"]["read_ns"] -= 1_000_000_000
            one["overview"]["load"] = dict.fromkeys(one["overview"]["load"], 0)
    return with_rates(before, after)


def printed(capsys: pytest.CaptureFixture[str], shown: Iterator[str]) -> list[str]:
    for line in shown:
        print_line(line)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("show", [cluster_lines, load_lines])
@pytest.mark.parametrize("count", [1, 3, 64])
def test_80_columns_hold_the_most_that_a_member_can_send(
    show: Callable[..., Iterator[str]], count: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = printed(capsys, show(with_loads(extreme(count)), 80))
    assert max(map(len, found)) <= 80
    for number in range(100, 100 + count):
        assert any(f"255.255.255.{number}" in line for line in found)
    busiest = next(line.split() for line in found if line.startswith("255.255.255.100") and "18.4E" in line)
    assert busiest[1:3] == ["18.4E", f"({1 / count:.0%})"], "no row of rates is broken"
    if show is cluster_lines:
        assert any("2001:db8:1234:5678:9abc:def0:1234:5678" in line for line in found), "no address is broken"
        (row,) = [line for line in found if line.startswith("255.255.255.100  draining")]
        assert row.split()[-4:] == ["65535/65535"] * 3 + ["65535"]


def test_what_fits_80_columns_is_one_table_and_so_is_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    rated = with_loads(report(overview(5, routers=12_345, forwarded=4_561_000), overview(5, routers=1)))
    found = list(cluster_lines(rated, 80))
    assert len(found) == 4
    assert max(map(len, found[1:])) <= 80
    assert found[2].split()[6:] == ["12.3k", "(100%)", "4.56M", "(100%)", "1,500"]
    piped = list(cluster_lines(with_loads(extreme(3)), 1_000_000))
    assert [line.split()[0] for line in piped[1:6]] == ["member", *(f"255.255.255.{n}" for n in (100, 101, 102, 103))]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"), (0.4, "0"), (9_999.4, "9,999"), (9_999.6, "10.0k"), (12_345, "12.3k"), (99_950, "100k"),
        (999_499, "999k"), (999_500, "1.00M"), (4_561_000, "4.56M"), (1e9, "1.00G"), (2**64, "18.4E"),
    ],
)  # fmt: skip
def test_counts_have_five_characters_at_most(count: float, text: str) -> None:
    assert shortened(count) == text


def test_a_node_that_does_not_forward_is_not_ready() -> None:
    found = lines(overview(5, ready=False, verdict="critical", faults=1, first_fault="no XDP"))
    assert found[2].split()[:3] == ["10.0.0.11", "not", "ready"]
    assert found[3] == "10.0.0.11: no XDP"


def test_top_has_the_busiest_first() -> None:
    after = report(overview(2, routers=10), None, overview(2, routers=30))
    before = report(overview(1), None, overview(1))
    found = list(load_lines(with_rates(before, after), 10_000))
    assert [line.split()[0] for line in found] == ["member", "10.0.0.13", "10.0.0.11", "10.0.0.12"]
    assert found[1].split()[2:5] == ["30", "(75%)", "0"]


@pytest.mark.parametrize(
    ("resets", "accepted", "named"),
    [(31, 33, True), (5, 50, True), (4, 4, False), (99, 1_000, False)],
)
def test_nodes_that_reset_connections_are_named(resets: int, accepted: int, named: bool) -> None:
    counts = {"accepted": 1_000, "resets": 10}
    later = {"accepted": 1_000 + accepted * 2, "resets": 10 + resets * 2}
    before = report(overview(1), overview(1, tcp=counts), overview(1, tcp=None), overview(1, tcp=None))
    after = report(overview(3), overview(3, tcp=later), overview(3, tcp=later), None)
    shown = list(cluster_lines(with_rates(before, after), 10_000))
    found = [line for line in shown if "its kernel resets connections" in line]
    text = f"10.0.0.12: its kernel resets connections ({resets} resets/s, {accepted:,} connections accepted/s): "
    assert found == ([text + "see `lbctl doctor` there"] if named else [])


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([report(overview(1)), report(overview(2, routers=40))])
    monkeypatch.setattr("agent.cli.cluster.request", lambda *_: next(answers))
    monkeypatch.setattr("time.sleep", lambda _: None)


@pytest.mark.usefixtures("two")
def test_cluster_for_people(run: Run, tmp_path: Path) -> None:
    out, _ = run("cluster", "-s", str(tmp_path))
    assert "40 (100%)" in out


@pytest.mark.usefixtures("two")
def test_cluster_for_programs(run: Run, tmp_path: Path) -> None:
    (one,) = json.loads(run("cluster", "-s", str(tmp_path), "-o", "json")[0])["members"]
    assert one["overview"]["rates"]["from_routers"] == 40.0
    assert one["overview"]["rates"]["resets"] == 0.0
    assert not {"load", "tcp"} & one["overview"].keys()


@pytest.mark.usefixtures("two")
def test_top_of_the_cluster(run: Run, tmp_path: Path) -> None:
    assert "40 (100%)" in run("top", "--cluster", "--once", "-s", str(tmp_path))[0]


@pytest.mark.parametrize(
    ("routers", "vips", "named"),
    [
        ((300, 0, 0), 1, True),
        ((300, 1, 1), 1, False),
        ((10, 0, 0), 1, False),  # too few packets to be no chance
        ((300, 0, 0), 0, False),  # they announce none
    ],
)
def test_nodes_that_no_router_sends_to_are_named(routers: tuple[int, ...], vips: int, named: bool) -> None:
    shown = lines(*(overview(5, routers=count, vips={"well": vips, "all": 1}) for count in routers))
    line = "10.0.0.12, 10.0.0.13: no packet from routers, which send 300/s to the others: see there whether "
    assert any(one.startswith(line) for one in shown) == named
