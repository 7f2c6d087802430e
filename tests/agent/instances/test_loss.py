# SPDX-License-Identifier: Apache-2.0
"""What clients notice of switches, ends and returns of servers: nothing, but for the connections of a killed process.

The control is the kernel's own choice, which resets what waits in the queue of a listener that is closed.
"""

import contextlib
import socket
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.instance_servers import PORT, VIP, Load, Servers
from support.instances import by_pidfile, running
from support.waiting import wait_for

WAITING = 40
SWITCHES = 20
OPEN = 400


def answered(connections: Sequence[socket.socket]) -> int:
    count = 0
    for one in connections:
        with one:
            try:
                count += bool(one.recv(100))
            except OSError:
                continue
    return count


def waiting() -> list[socket.socket]:
    return [socket.create_connection((VIP, PORT), timeout=30) for _ in range(WAITING)]


def test_what_waits_in_the_queue_of_a_killed_server_moves_to_the_next(
    servers: Servers, bpffs: Path, tmp_path: Path
) -> None:
    blue = servers.start("blue", pause_s=1000.0)  # it has accepted one, and never answers
    servers.start("green")
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        connections = waiting()
        blue.kill()
        assert answered(connections) >= WAITING - 1


def test_without_a_program_they_are_reset(servers: Servers) -> None:
    """Half of them wait at blue: that all but three are elsewhere has a probability of 1e-8."""
    blue = servers.start("blue", pause_s=1000.0)
    servers.start("green")
    connections = waiting()
    blue.kill()
    assert answered(connections) < WAITING - 2


def open_ones(count: int) -> list[socket.socket]:
    """Open connections; return those that a server has accepted, which is all."""
    made = [socket.create_connection((VIP, PORT), timeout=30) for _ in range(count)]
    for one in made:
        assert one.recv(100)
    return made


def ask(connections: Sequence[socket.socket]) -> Counter[str]:
    """Ask who serves each; a broken one is answered by nothing."""
    found: Counter[str] = Counter()
    for one in connections:
        try:
            one.sendall(b"?\n")
            found[one.recv(100).decode()] += 1
        except OSError:
            found[""] += 1
    return found


def test_open_connections_never_move_and_end_only_with_their_process(
    servers: Servers, bpffs: Path, tmp_path: Path
) -> None:
    blue = servers.start("blue", keeps=True)
    servers.start("green", keeps=True)
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper, contextlib.ExitStack() as stack:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        opened = open_ones(OPEN // 2)
        keeper.call(keeper.keeper.requests.switch(None, "green"))
        opened += open_ones(OPEN // 2)
        for one in opened:
            stack.enter_context(one)
        for number in range(SWITCHES):
            keeper.call(keeper.keeper.requests.switch(None, ("blue", "green")[number % 2]))
        keeper.call(keeper.keeper.requests.drain(None, "blue", True))
        assert ask(opened) == {"blue": OPEN // 2, "green": OPEN // 2}
        blue.kill()
        wait_for(lambda: keeper.states() == {"green": "active"})
        assert ask(opened) == {"": OPEN // 2, "green": OPEN // 2}


@pytest.mark.slow
def test_switches_and_restarts_under_load_fail_no_connection(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    blue = servers.start("blue")
    servers.start("green")
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        with Load(VIP) as switched:
            for number in range(SWITCHES):
                name = ("green", "blue")[number % 2]
                keeper.call(keeper.keeper.requests.switch(None, name))
                assert keeper.states()[name] == "active"
                switched.wait_for_more(50)
        gaps = []
        with Load(VIP) as killed:
            for _ in range(5):
                killed.start_gap()
                blue.kill()
                killed.wait_for_more(50)
                gaps.append(killed.gap_s)
                blue = servers.start("blue")
                wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
                killed.wait_for_more(50)
    listed = ", ".join(f"{1000 * gap:.0f}" for gap in gaps)
    print(f"switches: {switched}; kill -9 and back: {killed}; gaps over kill -9: {listed} ms")
    assert (switched.refused, switched.broken) == (0, 0)
    assert killed.refused == 0
    assert sorted(gaps)[2] <= 0.05, "the program knows at once; what a crowded machine adds is not in the median"
    assert killed.broken <= 5, "one at most was accepted by a process that was killed"
