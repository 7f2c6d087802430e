# SPDX-License-Identifier: Apache-2.0
"""lbctl check: its line and exit codes, and what an agent that is dead, hangs or may not be asked makes of it."""

import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.file_acl import admit_group

Run = Callable[..., tuple[str, str]]
GOOD = {"state": "ok", "faults": [], "summary": "all is well", "figures": {"services": 1}}
BAD = GOOD | {
    "state": "warning",
    "faults": [{"severity": "warning", "text": "a | b"}, {"severity": "warning", "text": "c"}],
}
READER = 54321
"""A group that exists nowhere."""


class Agent:
    """Answers every request with the next of its verdicts, the last one again and again."""

    def __init__(self, path: Path) -> None:
        self.verdicts: list[dict[str, Any]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()

    def answer(self, *verdicts: dict[str, Any]) -> None:
        self.verdicts += verdicts
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                connection.recv(1000)
                body = json.dumps(self.verdicts.pop(0) if len(self.verdicts) > 1 else self.verdicts[0])
                connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


@pytest.fixture
def path() -> Iterator[Path]:
    """A folder that other users may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder, "agent.sock")


def test_line_and_exit_code(run: Run, path: Path) -> None:
    Agent(path).answer(GOOD, BAD)
    assert run("check", "-s", str(path))[0] == "OK: all is well | services=1\n"
    assert run("check", "-s", str(path), code=1)[0] == "WARNING: a / b; c | services=1\n"
    assert json.loads(run("check", "-s", str(path), "-o", "json", code=1)[0]) == BAD


def test_a_dead_agent_is_critical(run: Run, path: Path) -> None:
    assert run("check", "-s", str(path), code=2)[0].startswith(f"CRITICAL: {path}: no agent answers; start it")


@pytest.mark.slow
def test_a_hung_agent_is_critical_within_two_seconds(run: Run, path: Path) -> None:
    stopped = Agent(path)  # it listens, and never answers, as after SIGSTOP
    began = time.monotonic()
    out, _ = run("check", "-s", str(path), code=2)
    assert time.monotonic() - began < 2
    assert not stopped.verdicts
    assert "does not answer (timed out); see `systemctl status lb-agent`" in out


def as_reader(path: Path, *groups: int) -> "subprocess.CompletedProcess[str]":
    """Run lbctl check's requests as a user without rights; the tree is not open to others, so not lbctl itself."""
    code = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        "s.sendall(b'GET /check HTTP/1.0\\r\\n\\r\\n'); print(s.recv(9999)[:12].decode())"
    )
    command = ["/usr/bin/python3", "-I", "-c", code, str(path)]
    return subprocess.run(
        command, user=65534, group=65534, extra_groups=groups, capture_output=True, text=True, check=False, cwd="/"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
def test_a_group_is_let_in_by_the_owner_alone(path: Path) -> None:
    agent = Agent(path)
    path.chmod(0o600)
    path.parent.chmod(0o700)
    agent.answer(GOOD)
    assert "PermissionError" in as_reader(path, READER).stderr, "the control: closed"
    admit_group(path.parent, READER, 0o1)
    admit_group(path, READER, 0o6)
    assert as_reader(path, READER).stdout == "HTTP/1.1 200\n"
    assert "PermissionError" in as_reader(path).stderr, "others stay out"
    path.parent.chmod(0o700)
    assert "PermissionError" in as_reader(path, READER).stderr, "as when the agent's folder is closed again"


def test_want_of_rights_is_unknown(run: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("socket.socket.connect", refuse)
    out, _ = run("check", "-s", str(path), code=3)
    assert out.startswith(f"UNKNOWN: {path}: permission denied; run lbctl as root, or to read as a member of the group")
    assert "permission denied" in run("status", "-s", str(path), "--wait", code=1)[1], "it does not wait for rights"


def test_status_waits_until_the_node_is_healthy(run: Run, path: Path) -> None:
    agent = Agent(path)
    agent.answer(BAD, BAD, GOOD, {"ready": True})
    out, _ = run("status", "--wait", "-s", str(path), "-o", "json")
    assert json.loads(out) == {"ready": True}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of lbctl status --wait, which passes while it sleeps, at no cost."""
    times = [100.0]
    asleep = SimpleNamespace(monotonic=lambda: times[-1], sleep=lambda seconds: times.append(times[-1] + seconds))
    monkeypatch.setattr("agent.cli.check.time", asleep)
    return times


def test_status_does_not_wait_for_ever(run: Run, path: Path, clock: list[float]) -> None:
    Agent(path).answer(BAD)
    _, err = run("status", "--wait", "--timeout", "1s", "-s", str(path), code=4)
    assert err == "lbctl: not healthy within 1 s: WARNING: a / b; c\n"
    assert clock[-1] == pytest.approx(101, abs=0.11)


@pytest.mark.parametrize(
    ("condition", "status", "missing"),
    [
        ("ready", {"ready": False, "fault": "no XDP", "vips": []}, "no XDP"),
        ("announced", {"ready": True, "vips": [{"vip": "192.0.2.1", "announced": False}]}, "not announced: 192.0.2.1"),
    ],
)
@pytest.mark.usefixtures("clock")
def test_what_is_waited_for(run: Run, path: Path, condition: str, status: dict[str, Any], missing: str) -> None:
    Agent(path).answer(status)
    _, err = run("status", "--wait", condition, "--timeout", "1s", "-s", str(path), code=4)
    assert err == f"lbctl: not {condition} within 1 s: {missing}\n"
