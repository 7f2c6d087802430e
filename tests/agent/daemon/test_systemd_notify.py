# SPDX-License-Identifier: Apache-2.0
"""What systemd is sent about the agent, read from a socket as systemd reads it."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.daemon.systemd_notify import Condition, SystemdNotifier, line
from bgp.sd_notify import notify, status, watchdog_s

SERVING = Condition(True, 2, 4, ())


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield receiver


def received(manager: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(manager.recv(4096).decode())
        except BlockingIOError:
            return found


def test_ready_comes_with_the_data_path_and_again_after_a_reload(manager: socket.socket) -> None:
    report = SystemdNotifier()
    report.report(SERVING._replace(ready=False))
    assert received(manager) == ["STATUS=starting"]
    report.report(SERVING)
    report.report(SERVING)
    assert received(manager) == ["READY=1\nSTATUS=serving 2 services with 4 members"], "once"
    report.reloading()
    (reloading,) = received(manager)
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
    report.report(SERVING)
    assert received(manager)[0].startswith("READY=1\n")


def test_line_begins_with_what_fails() -> None:
    assert line(Condition(True, 1, 1, ())) == "serving 1 service with 1 member"
    assert line(SERVING._replace(problems=("a", "b"))) == "serving 2 services with 4 members; 2 problems: a"
    assert line(SERVING._replace(ready=False, problems=("no route",))) == "starting; 1 problem: no route"


def test_status_is_one_short_line() -> None:
    assert status("a\nb") == "STATUS=a b"
    assert len(status("x" * 1000)) == len("STATUS=") + 200


def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody-reads"))
    notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "expected"), [("6000000", None, 6.0), ("6000000", "1", None), ("", None, None), ("x", None, None)]
)
def test_watchdog(monkeypatch: pytest.MonkeyPatch, usec: str, pid: str | None, expected: float | None) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid:
        monkeypatch.setenv("WATCHDOG_PID", pid)
    assert watchdog_s() == expected
