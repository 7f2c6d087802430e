# SPDX-License-Identifier: Apache-2.0
"""lbctl events: the agent's file as lines, by level and time, without an agent."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[str, str]]
NOW = time.time()
EVENTS = [
    {"time": NOW - 7200, "level": "info", "source": "x", "text": "long ago"},
    {"time": NOW - 60, "level": "info", "source": "x", "text": "b2 is up"},
    {"time": NOW - 50, "level": "warning", "source": "x", "text": "it fails \x1b[2J"},
    {"time": NOW - 40, "level": "error", "source": "x", "text": "it failed"},
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    return file


def test_lines_with_time_and_level(run: Run, path: Path) -> None:
    lines = run("events", "--file", str(path))[0].splitlines()
    assert [line.partition("Z ")[2] for line in lines] == [
        "long ago",
        "b2 is up",
        "warning: it fails \\x1b[2J",
        "error: it failed",
    ]


def test_of_some_time_and_level(run: Run, path: Path) -> None:
    assert len(run("events", "--file", str(path), "--since", "1h")[0].splitlines()) == 3
    warnings = run("events", "--file", str(path), "--level", "warning", "-o", "json")[0].splitlines()
    assert [json.loads(line) for line in warnings] == EVENTS[2:]
    assert run("events", "--file", str(path), "--level", "error")[0].endswith("error: it failed\n")


def test_no_file_is_no_event_and_want_of_rights_is_an_error(run: Run, tmp_path: Path) -> None:
    assert run("events", "--file", str(tmp_path / "none"))[0] == ""
    assert "Is a directory; run lbctl as root" in run("events", "--file", str(tmp_path), code=1)[1]
