# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in the middle: listeners that close while they are taken up, no descriptor left, servers of two
services, an instance that flaps, an agent that is killed."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.instance_servers import ANY, PORT, VIP, Load, Servers, answers
from support.instances import by_pidfile, descriptors, of_services, running
from support.waiting import wait_for

from agent.instances import group, processes, taken
from agent.model import Listener
from bpf.errors import BpfError
from bpf.maps.instance_maps import InstanceMaps

FLAPPING_S = float(os.environ.get("ANYLB_FLAPPING_S", "8"))
"""A minute by hand."""
FLAPPING = """
import socket, sys, time
while True:
    with socket.create_server((sys.argv[1], int(sys.argv[2])), reuse_port=True, backlog=1024) as one:
        until = time.monotonic() + 0.1
        while (left := until - time.monotonic()) > 0:
            one.settimeout(left)
            try:
                connection, _ = one.accept()
            except TimeoutError:
                break
            with connection:
                connection.sendall(b"blue")
    time.sleep(0.1)
"""
"""Listens for 0.1 s, then not for 0.1 s, and so on."""


def test_a_listener_that_closes_while_it_is_taken_up_disturbs_no_other(
    servers: Servers, bpffs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blue = servers.start("blue")
    servers.start("green")
    copy_listener = taken.copy_listener

    def close_it(listener: Listener, pid: int, fd: int) -> socket.socket | None:
        copy = copy_listener(listener, pid, fd)
        if copy is not None and pid == blue.pid:
            copy.shutdown(socket.SHUT_RDWR)  # of all copies: it no longer listens
        return copy

    monkeypatch.setattr(taken, "copy_listener", close_it)
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states().get("green") == "active")
        assert answers() == {"green": 40}
        wait_for(lambda: keeper.keeper.problems == (), "it is no listener any more")


def test_a_listener_that_gets_no_slot_is_named_and_disturbs_no_other(
    servers: Servers, bpffs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers.start("blue")
    put, refused = InstanceMaps.put, set[int]()

    def refuse_the_first(maps: InstanceMaps, slot: int, fd: int) -> None:
        with socket.socket(fileno=os.dup(fd)) as copy:
            cookie = processes.cookie_of(copy)
        if not refused or cookie in refused:
            refused.add(cookie)
            raise BpfError("Operation not supported", errno.EOPNOTSUPP)
        put(maps, slot, fd)

    monkeypatch.setattr(InstanceMaps, "put", refuse_the_first)
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        line = "web: blue: its listener has no slot: Operation not supported: "
        wait_for(lambda: any(problem.startswith(line) for problem in keeper.keeper.problems))
        servers.start("green")
        wait_for(lambda: keeper.states() == {"blue": "not listening", "green": "active"})
        assert answers() == {"green": 40}


@pytest.mark.usefixtures("looks_soon")
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EPERM])
def test_without_a_descriptor_the_choice_stays_and_the_next_step_is_named(
    servers: Servers, bpffs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    servers.start("blue")
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active"})

        def refuse(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(group, "copy_socket", refuse)
        green = servers.start("green")
        step = "raise LimitNOFILE=" if number == errno.EMFILE else "the agent needs CAP_SYS_PTRACE"
        line = f"web: green: the listener of process {green.pid} cannot be taken: {os.strerror(number)}: {step}"
        wait_for(lambda: any(problem.startswith(line) for problem in keeper.keeper.problems))
        monkeypatch.setattr(processes, "_text", refuse)
        if number == errno.EMFILE:  # else it looks as if all processes had ended
            line = "web: instances cannot be looked for: Too many open files"
            wait_for(lambda: any(problem.startswith(line) for problem in keeper.keeper.problems))
            assert keeper.states()["blue"] == "active"
        assert answers() == {"blue": 40}
        monkeypatch.undo()
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        wait_for(lambda: keeper.keeper.problems == ())


def test_the_same_servers_for_two_services_are_named(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    """One has their address, the other finds them by another match: they cannot have two orders."""
    blue = servers.start("blue", address="127.0.0.1")
    (tmp_path / "other.pid").write_text(str(blue.pid))
    services = [
        {
            "name": name,
            "vip": VIP,
            "protocol": "tcp",
            "port": port,
            "instances": {"match": {"pidfile": str(tmp_path / f"{pidfile}.pid")}, "steer": steer},
        }
        for name, port, pidfile, steer in (("web", 443, "blue", f"127.0.0.1:{PORT}"), ("more", 444, "other", "auto"))
    ]
    with running(of_services(*services), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active"})
        line = f"more: other: 127.0.0.1:{PORT} is where web has its servers: set steer of both to ADDRESS:PORT"
        wait_for(lambda: keeper.keeper.problems == (line,))
        assert answers(port=443) == {"blue": 40}


@pytest.mark.slow
def test_an_instance_that_flaps_leaks_nothing_and_fails_no_connection(
    servers: Servers, bpffs: Path, tmp_path: Path
) -> None:
    green = servers.start("green")
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"green": "active"})
        wait_for(lambda: green.pid in keeper.keeper._watch._open, "its end to be watched")
        before = descriptors()
        flapping = subprocess.Popen([sys.executable, "-S", "-c", FLAPPING, ANY, str(PORT)])
        try:
            (tmp_path / "blue.pid").write_text(str(flapping.pid))
            with Load(VIP) as load:
                end = time.monotonic() + FLAPPING_S
                rounds = 0
                while time.monotonic() < end:
                    rounds += 1
                    load.wait_for_more(20)
        finally:
            flapping.kill()
            flapping.wait()
        print(f"flapping for {FLAPPING_S:.0f} s: {load}")
        assert (load.refused, load.broken) == (0, 0)
        wait_for(lambda: keeper.states() == {"green": "active"})
        wait_for(lambda: descriptors() <= before, "a health check to end")
        (only,) = keeper.keeper._pools[f"tcp/{PORT}"]._taken._groups.values()
        assert len(only._kernel.maps.cookies()) == 1
        green.kill()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((VIP, PORT), timeout=10)


AGENT = """
import asyncio, sys
from pathlib import Path
from support.instances import by_pidfile
from support.programs import PROGRAMS
from agent.errors import AgentError
from agent.instances.keeper import InstanceKeeper, InstancePaths
folder, pins = Path(sys.argv[1]), Path(sys.argv[2])
async def main():
    paths = InstancePaths(pins / "instances", pins / "steering", folder / "instances.json", folder / "socket", PROGRAMS)
    keeper = InstanceKeeper(by_pidfile(folder), paths, lambda: None)
    task = asyncio.create_task(keeper.run())
    while True:
        for name in ("blue", "green"):
            try:
                await keeper.requests.switch("web", name)
                print(name, flush=True)
            except AgentError:  # not found yet
                await asyncio.sleep(0.01)
asyncio.run(main())
"""
"""Switches without pause."""


@pytest.mark.slow
def test_an_agent_that_is_killed_in_a_switch_fails_no_connection(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    servers.start("blue")
    servers.start("green")
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
    with Load(VIP) as load:
        for _ in range(3):
            argv = [sys.executable, "-c", AGENT, str(tmp_path), str(bpffs)]
            with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=paths) as agent:
                assert agent.stdout is not None
                for _ in range(20):
                    assert agent.stdout.readline().strip() in ("blue", "green")
                agent.kill()
            load.wait_for_more(50)
            (taker,) = answers()
            with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
                wait_for(lambda: sorted(keeper.states().values()) == ["active", "standby"])
                active = next(name for name, state in keeper.states().items() if state == "active")
                assert answers() == {active: 40}
            assert taker in ("blue", "green")
    print(f"killed in switches: {load}")
    assert (load.refused, load.broken) == (0, 0)
