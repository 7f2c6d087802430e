# SPDX-License-Identifier: Apache-2.0
"""`lbctl drain --wait` against counts that are given here: when it ends, with which code, and what it prints."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent.cli import connections, node
from agent.cli.main import main
from agent.errors import AgentError, NotRunningError

Drain = Callable[..., Result]


@pytest.fixture
def drain(monkeypatch: pytest.MonkeyPatch) -> Drain:
    """Run the command against an agent that answers with these counts; the clock goes on with each wait."""

    def run(counts: Iterable[int | AgentError], *options: str) -> Result:
        now, answers = [100.0], iter(counts)

        def request(_: object, method: str, resource: str, **__: str) -> dict[str, Any]:
            if resource == "/drain":
                return {"ok": True, "state": "draining"}
            assert (method, resource) == ("GET", "/connections")
            answer = next(answers)
            if isinstance(answer, AgentError):
                raise answer
            return {"held": answer}

        monkeypatch.setattr(node, "request", request)
        monkeypatch.setattr(connections, "request", request)
        monkeypatch.setattr(connections.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(connections.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
        result = CliRunner().invoke(main, ["drain", *options])
        assert next(answers, None) is None, "all counts were asked for"
        return result

    return run


def test_it_ends_when_two_counts_in_a_row_are_zero(drain: Drain) -> None:
    result = drain([0, 3, 2, 0, 1, 0, 0], "--wait")
    assert (result.exit_code, result.output) == (0, "drained, 0 connections are open\n")


def test_it_ends_below_a_limit(drain: Drain) -> None:
    result = drain([1200, 10, 9, 8], "--wait", "--until-below", "10", "-o", "json")
    assert json.loads(result.stdout) == {"ok": True, "state": "draining", "held": 8}


def test_what_is_not_in_time_is_exit_code_4(drain: Drain) -> None:
    result = drain([5000, 4000, 3000], "--wait", "--timeout", "5s")
    assert result.exit_code == 4
    assert result.output == "lbctl: not within 5 s: 3,000 connections are open; the node stays drained\n"


def test_an_agent_may_be_restarted_meanwhile_and_not_for_long(drain: Drain) -> None:
    away = NotRunningError("no agent answers")
    assert drain([3, away, away, 0, 0], "--wait").exit_code == 0
    result = drain([3, *[away] * 16], "--wait")
    assert (result.exit_code, result.output) == (3, "lbctl: no agent answers\n")


def test_a_count_that_fails_ends_it(drain: Drain) -> None:
    result = drain([AgentError("connections cannot be counted")], "--wait")
    assert (result.exit_code, result.output) == (1, "lbctl: connections cannot be counted\n")


def test_progress_is_shown_on_a_terminal_alone(drain: Drain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_on_terminal", lambda: True)
    result = drain([1200, 0, 0], "--wait")
    shown = ["1,200 connections after 0 s", "0 connections after 2 s", "0 connections after 4 s\n"]
    assert result.stderr.split("\r")[1:] == shown
    assert result.stdout == "drained, 0 connections are open\n"


def test_without_wait_nothing_is_counted(drain: Drain) -> None:
    assert drain([]).output == "draining\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--until-below", "5"], "--until-below requires --wait"),
        (["--timeout", "5s"], "--timeout requires --wait"),
        (["--wait", "--until-below", "0"], "0 is not in the range x>=1"),
        (["--wait", "--until-below", "few"], "'few' is not a valid whole number"),
        (["--wait", "--timeout", "5"], "'5' is not a duration; write 90s, 10m, 1h30m or 2d"),
    ],
)
def test_wrong_usage_changes_nothing(drain: Drain, options: list[str], message: str) -> None:
    result = drain([], *options)
    assert result.exit_code == 2
    assert message in result.output
