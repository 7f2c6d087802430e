# SPDX-License-Identifier: Apache-2.0
"""lbctl as a process whose output is closed, full or of another encoding, and one that Ctrl-C ends: never a traceback.

All of them are of main.py; `lbctl events` needs no agent, and prints what its file has.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.cli.main import main

LBCTL = Path(sys.executable).with_name("lbctl")


@pytest.fixture
def events(tmp_path: Path) -> list[str]:
    """Return a command that prints two lines, the first with a character that Latin-1 lacks, the second in a color."""
    path = tmp_path / "events.jsonl"
    found = [{"time": time.time(), "level": level, "text": "50 → 100"} for level in ("info", "warning")]
    path.write_text("".join(f"{json.dumps(one)}\n" for one in found))
    return [str(LBCTL), "events", "--file", str(path)]


def shell(redirection: str, command: list[str], unbuffered: str = "") -> subprocess.CompletedProcess[str]:
    line = ["sh", "-c", f'"$@" {redirection}', "sh", *command]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUNBUFFERED": unbuffered}
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60, env=environment)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [["--help"], ["config", "schema"]])
def test_a_full_disk_is_one_line(command: list[str], unbuffered: str) -> None:
    done = shell(">/dev/full", [str(LBCTL), *command], unbuffered)
    reason = "the output is incomplete: No space left on device; write it where there is room"
    assert done.stderr == f"lbctl: {reason}\n"
    assert done.returncode == 1


def test_a_closed_output_is_no_error(events: list[str]) -> None:
    done = shell(">&-", events)
    assert (done.returncode, done.stderr) == (0, "")


def test_each_stream_may_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has None for one; drain --wait asks whether standard error is a terminal."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert not any(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))


def test_a_closed_input_is_an_empty_one() -> None:
    done = shell("<&-", [str(LBCTL), "table", "diff", "-"])
    assert (done.returncode, "is empty: give what `lbctl table show" in done.stderr) == (2, True)


def test_a_full_disk_is_not_the_fault_of_the_file_that_is_read(events: list[str]) -> None:
    done = shell(">/dev/full", events)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("lbctl: the output is incomplete: No space left on device")
    assert shell("| true", events).stderr == ""


@pytest.mark.parametrize("command", [["--help"], ["config", "schema"]])
def test_a_pipe_that_is_closed_is_silent(command: list[str]) -> None:
    done = shell("| true", [str(LBCTL), *command])
    assert (done.stdout, done.stderr) == ("", "")


def test_characters_that_the_encoding_lacks_are_escaped(events: list[str]) -> None:
    done = shell("", events)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(" ", 2)[-1] for line in done.stdout.splitlines()] == [
        "50 \\u2192 100",
        "warning: 50 \\u2192 100",
    ]


def test_ctrl_c_while_it_waits_is_exit_code_130(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent.sock"))
        agent.listen()
        command = [LBCTL, "status", "-s", tmp_path / "agent.sock"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            asked, _ = agent.accept()  # and waits for the answer
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60) == ("", "\n")
            asked.close()
        assert process.returncode == 130
