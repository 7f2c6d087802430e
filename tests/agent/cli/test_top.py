# SPDX-License-Identifier: Apache-2.0
"""lbctl top and drops: rates are the difference of two statuses, and every reason has its sentences."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.node_status import node_status

from agent.cli.rates import drops, loads, total
from bpf.layout.counter import DESCRIPTIONS, Counter

Run = Callable[..., tuple[str, str]]


def named(name: str) -> dict[str, Any]:
    """The usual status; its first service has this name."""
    found = copy.deepcopy(node_status())
    found["services"][0]["name"] = name
    return found


def later(name: str = "web", **added: int) -> dict[str, Any]:
    """A status in which these counters of the first service have grown."""
    found = named(name)
    for name, count in added.items():
        found["services"][0]["counters"][name] += count
    return found


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the agent answer with the usual status, then with one that has grown, two seconds later."""

    def answer(name: str = "web", **added: int) -> None:
        statuses: Iterator[dict[str, Any]] = iter([named(name), later(name, **added)])
        times = iter([100.0, 102.0])
        monkeypatch.setattr("agent.cli.top.request", lambda *_: next(statuses))
        monkeypatch.setattr("time.sleep", lambda _: None)
        monkeypatch.setattr("time.monotonic", lambda: next(times))
        monkeypatch.setenv("COLUMNS", "80")

    return answer


def test_rates_of_services_and_of_the_node() -> None:
    after = later(rx=300, rx_forwarded=30, deliver_owner=20, forward_first=100, drop_grace=10)
    found = {one.service: one for one in loads(node_status(), after, 2.0)}
    assert list(found) == ["web", "nat"], "the busiest first"
    assert found["web"] == ("web", 150, 15, 10, 50, 5, 12)
    assert found["nat"][1:6] == (0, 0, 0, 0, 0)
    assert total(list(found.values())) == ("this node", 150, 15, 10, 50, 5, 24)


def test_a_counter_that_begins_again_is_no_negative_rate() -> None:
    before = later(drop_grace=1000)
    (web, nat, *_) = drops(before, node_status(), 1.0)
    assert (web.service, web.per_s, nat.per_s) == ("web", 5.0, 0.0)


def test_drops_with_a_sentence_each(run: Run, two: Callable[..., None], tmp_path: Path) -> None:
    two(drop_grace=10, drop_no_member=200)
    out, _ = run("drops", "-s", str(tmp_path))
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split()[:4] == ["drop_no_member", "web", "100", "200"], "the highest rate first"
    for counter in (Counter.DROP_GRACE, Counter.DROP_NO_MEMBER):
        assert DESCRIPTIONS[counter].action.split()[-1] in out
    two(drop_grace=10)
    found = json.loads(run("drops", "-s", str(tmp_path), "-o", "json")[0])["drops"]
    assert found[0] == {"service": "web", "event": "drop_grace", "per_s": 5.0, "total": 15}


def test_top_once(run: Run, two: Callable[..., None], tmp_path: Path) -> None:
    two(rx=300)
    out, _ = run("top", "--once", "-s", str(tmp_path))
    header, web, nat, node = out.splitlines()
    assert max(map(len, out.splitlines())) <= 80
    assert web.split() == ["web", "150", "0", "0", "0", "0", "12"]
    assert nat.split() == ["nat", "0", "0", "0", "0", "0", "12"]
    assert node.split() == ["this", "node", "150", "0", "0", "0", "0", "24"]
    two(rx=300)
    found = json.loads(run("top", "--once", "-s", str(tmp_path), "-o", "json")[0])
    assert (found["node"]["from_router"], found["services"][0]["service"]) == (150.0, "web")
    assert header.startswith("service")


@pytest.mark.parametrize("command", [("top", "--once"), ("drops",)])
def test_long_names_of_services_fit_80_columns_and_json_has_all(
    run: Run, two: Callable[..., None], tmp_path: Path, command: tuple[str, ...]
) -> None:
    name = f"shop-{'x' * 54}-443"
    two(name, rx=20_000_000, drop_no_member=2_000_000)
    out, _ = run(*command, "-s", str(tmp_path))
    assert max(map(len, out.splitlines())) <= 80
    (line, *_) = [line for line in out.splitlines() if "shop-" in line]
    assert "-443" in line
    two(name, drop_no_member=2_000_000)
    assert name in run(*command, "-s", str(tmp_path), "-o", "json")[0]
