# SPDX-License-Identifier: Apache-2.0
"""lbctl events: the agent's file as lines, by level and time, without an agent."""

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import private_file

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


def test_no_event_is_no_silence(run: Run, path: Path, tmp_path: Path) -> None:
    missing = f"lbctl: {tmp_path}/none is missing: no agent has run here, or --file names another\n"
    assert run("events", "--file", str(tmp_path / "none")) == ("", missing)
    assert run("events", "--file", str(path), "--since", "1s") == ("", f"lbctl: {path} has no such event\n")
    assert run("events", "--file", str(path), "--since", "1s", "-o", "json") == ("", "")


def test_what_is_no_file_of_events_is_an_error(run: Run, tmp_path: Path) -> None:
    step = "give the file of the agent's events"
    assert (
        run("events", "--file", str(tmp_path), code=1)[1] == f"lbctl: {tmp_path}: is a directory, not a file; {step}\n"
    )
    for odd, why in (("", ".: is a directory"), ("/", "/: is a directory"), ("/dev/zero", "/dev/zero: is a device")):
        assert run("events", "--file", odd, code=1)[1] == f"lbctl: {why}, not a file; {step}\n"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert "is a FIFO, not a file" in run("events", "--file", str(fifo), code=1)[1]


def test_want_of_rights_names_root(run: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: Path, _: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    monkeypatch.setattr(private_file, "open_file", refuse)
    assert run("events", "--file", str(path), code=1)[1].endswith("Permission denied; run lbctl as root\n")
