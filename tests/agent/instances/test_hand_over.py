# SPDX-License-Identifier: Apache-2.0
"""Servers that hand their listeners over themselves, to an agent that has no right to copy them."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from support.handing_server import HandingServer, accepts
from support.instance_servers import Servers, answers
from support.instances import Running, by_pidfile, descriptors, running
from support.waiting import wait_for


@pytest.fixture
def no_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent may neither see what descriptors processes have, nor copy them."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("agent.instances.processes.sockets", refuse)
    monkeypatch.setattr("agent.instances.group.copy_socket", refuse)


@pytest.fixture
def handing(servers: Servers, no_right: None, tmp_path: Path) -> Iterator[list[HandingServer]]:
    made: list[HandingServer] = [HandingServer(tmp_path, "blue"), HandingServer(tmp_path, "green")]
    yield made
    for one in made:
        one.kill()


def test_servers_hand_over_and_the_choice_is_as_ever(handing: list[HandingServer], bpffs: Path, tmp_path: Path) -> None:
    blue, green = handing
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: accepts(tmp_path / "instances.sock"))
        assert (tmp_path / "instances.sock").stat().st_mode & 0o007 == 0
        wait_for(lambda: any("needs CAP_SYS_PTRACE" in line for line in keeper.keeper.problems))
        assert green.hand_over() == "ok green"
        assert blue.hand_over() == "ok blue"
        assert blue.hand_over() == "ok blue", "again"
        blue.serve(), green.serve()
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        wait_for(lambda: keeper.keeper.problems == ())
        assert answers() == {"blue": 40}
        keeper.call(keeper.keeper.requests.switch(None, "green"))
        assert answers() == {"green": 40}
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "standby", "green": "active"}, "the next agent knows them")
        assert answers() == {"green": 40}
        before = descriptors()
        green.kill()
        assert answers() == {"blue": 40}, "no copy keeps the dead server's listener"
        wait_for(lambda: keeper.states() == {"blue": "active"})
        assert descriptors() <= before


def test_who_is_no_instance_is_refused(handing: list[HandingServer], bpffs: Path, tmp_path: Path) -> None:
    other = HandingServer(tmp_path, "red", pidfile=False)
    try:
        with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
            wait_for(lambda: accepts(tmp_path / "instances.sock"))
            assert other.hand_over() == (
                f"error: process {other.process.pid} is no instance of web, web6, or listens elsewhere: see match"
            )
            assert handing[0].hand_over() == "ok blue"
            wait_for(lambda: keeper.states() == {"blue": "active", "green": "not listening"})
    finally:
        other.kill()


@pytest.mark.parametrize(
    ("request_", "what", "answer"),
    [
        (b"listen\n", ["file"], "error: a descriptor is no socket; send listeners only"),
        (b"listen\n", [], "error: no descriptor came with the request; send the listeners by SCM_RIGHTS"),
        (b"hello\n", ["client"], "error: the request is not 'listen' and a line's end"),
        (b"listen\n", ["client"] * 65, "error: more than 64 descriptors; send them in several connections"),
        (b"listen\n", ["client"], "error: process PID is no instance of web, web6, or listens elsewhere"),
    ],
)
def test_what_is_no_hand_over_is_refused_and_leaves_nothing_open(
    servers: Servers, bpffs: Path, tmp_path: Path, request_: bytes, what: list[str], answer: str
) -> None:
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: accepts(tmp_path / "instances.sock"))
        got, before = ask(keeper, tmp_path, request_, what), descriptors()
        expected = answer.replace("PID", str(os.getpid()))
        assert got.startswith(expected)
        assert ask(keeper, tmp_path, request_, what).startswith(expected)
        wait_for(lambda: descriptors() <= before, "what was sent to be closed")


def ask(keeper: Running, folder: Path, request: bytes, what: Iterable[str]) -> str:
    """Send descriptors of these kinds; return the answer."""
    with socket.socket(socket.AF_UNIX) as client, (folder / "file").open("w") as file:
        client.connect(str(folder / "instances.sock"))
        fds = array.array("i", [{"client": client, "file": file}[one].fileno() for one in what])
        client.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else [])
        return client.recv(1000).decode()
