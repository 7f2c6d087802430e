# SPDX-License-Identifier: Apache-2.0
"""UDP has no connections: a flow stays with its instance over a switch, while that lives."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.instance_servers import PORT, VIP, Servers
from support.instances import by_pidfile, running
from support.waiting import wait_for

from agent.config.schema import Config


def udp(folder: Path, **settings: object) -> Config:
    """The check of the service is not of this test: it asks a port where nobody is."""
    return by_pidfile(folder, {"type": "udp", "send": "x", "port": 9}, "udp", **settings)


@contextlib.contextmanager
def flows(count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(count)]
        for one in made:
            one.settimeout(10)
            one.connect((VIP, PORT))
        yield made


def ask(some: list[socket.socket]) -> set[str]:
    """Send a datagram in each flow; return who answered."""
    for one in some:
        one.send(b"?")
    return {one.recv(100).decode() for one in some}


def test_a_flow_stays_with_its_instance_while_that_lives(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    blue = servers.start("blue", udp=True)
    servers.start("green", udp=True)
    with running(udp(tmp_path), bpffs, tmp_path) as keeper, flows(20) as old, flows(20) as new:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        assert ask(old) == {"blue"}
        keeper.call(keeper.keeper.requests.switch(None, "green"))
        assert ask(new) == {"green"}
        assert ask(old) == {"blue"}, "over a switch"
        keeper.call(keeper.keeper.requests.drain(None, "blue", True))
        assert ask(old) == {"blue"}, "and when it is drained"
        blue.kill()
        assert ask(old) == {"green"}
        assert ask(new) == {"green"}


def test_without_the_memory_of_flows_they_would_move(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    """The control: the choice alone, as for TCP."""
    servers.start("blue", udp=True)
    servers.start("green", udp=True)
    with running(udp(tmp_path), bpffs, tmp_path) as keeper, flows(20) as old:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        assert ask(old) == {"blue"}
        (group,) = next(iter(keeper.keeper._pools.values()))._taken._groups.values()
        memory = group._kernel.maps._pinned["flows"]
        keeper.call(keeper.keeper.requests.switch(None, "green"))
        assert len(memory.read_keys()) == 20
        for key in memory.read_keys():
            memory.delete(key)
        assert ask(old) == {"green"}


@pytest.mark.parametrize("policy", ["weighted", "spread"])
def test_flows_are_divided(servers: Servers, bpffs: Path, tmp_path: Path, policy: str) -> None:
    servers.start("blue", udp=True)
    servers.start("green", udp=True)
    with running(udp(tmp_path, policy=policy), bpffs, tmp_path) as keeper, flows(100) as some:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "active"})
        assert ask(some) == {"blue", "green"}


@pytest.mark.slow
def test_each_instance_is_asked_by_a_check_of_type_udp(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    """A stopped server has its socket still; the datagrams of checks are no flows that are remembered."""
    blue = servers.start("blue", udp=True)
    green = servers.start("green", udp=True)
    health = {"type": "udp", "send": "?", "expect": "e", "interval_s": 0.5, "timeout_s": 0.5, "rise": 1}
    with running(by_pidfile(tmp_path, health, "udp"), bpffs, tmp_path) as keeper, flows(20) as new:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        os.kill(blue.pid, signal.SIGSTOP)
        wait_for(lambda: keeper.states() == {"blue": "unhealthy", "green": "active"})
        assert ask(new) == {"green"}
        os.kill(blue.pid, signal.SIGCONT)
        os.kill(green.pid, signal.SIGSTOP)
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "unhealthy"})
