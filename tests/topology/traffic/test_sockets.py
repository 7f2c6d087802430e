# SPDX-License-Identifier: Apache-2.0
"""The client's sockets without their loop: the test has the clock, so minutes pass at once.

client 10.1.1.0/24 ── lo, with Ethernet's MTU ── server 10.99.0.1:7000
"""

import contextlib
import select
import shlex
import socket
import subprocess
import time
from collections import Counter

import pytest
from support.netns import new_netns
from support.waiting import wait_for

from topology.traffic.connection import ConnectionState
from topology.traffic.server import answer
from topology.traffic.sockets import TICK_S, ClientSockets, sources

pytestmark = pytest.mark.lab

VIP = ("10.99.0.1", 7000)
HELD = 20
SILENT_S = 300
NEVER_S = 1e9


class Net:
    """The client and a server in one thread, on a clock that the test moves."""

    def __init__(self) -> None:
        self._epoll, self.now = select.epoll(), time.monotonic()
        self.client = ClientSockets(VIP, sources("10.1.1"), self._epoll, NEVER_S)
        with socket.create_server(VIP) as listener:
            self.client.to_open = HELD
            self.tick()
            self._servers = [listener.accept()[0] for _ in range(HELD)]
        for server in self._servers:
            server.setblocking(False)
        self._partial = [b""] * HELD

    def tick(self) -> None:
        self.now += TICK_S
        self.client.tick(self.now)

    def exchange(self) -> None:
        """Answer what has arrived, and have the client read the answers."""
        for number, server in enumerate(self._servers):
            with contextlib.suppress(BlockingIOError):
                self._partial[number] += server.recv(1 << 20)
            lines, _, self._partial[number] = self._partial[number].rpartition(b"\n")
            if lines:
                server.sendall(answer("b1", lines + b"\n"))
        for descriptor, _ in self._epoll.poll(0):
            self.client.handle_event(descriptor, self.now)

    def all_answered(self, since: float) -> bool:
        self.tick()
        self.exchange()
        return all(held.settled(since) for held in self.client.held)


def run(command: str) -> None:
    subprocess.run(shlex.split(command), check=True, capture_output=True)


def test_full_buffer_breaks_no_connection() -> None:
    """A server that gives no answer for minutes leaves the kernel no room for more messages: they wait."""
    with new_netns():
        run("ip link set lo up mtu 1500")
        run("ip address add 10.99.0.1/32 dev lo")
        run("ip route add local 10.1.1.0/24 dev lo")
        net = Net()
        wait_for(
            lambda: net.exchange() or all(one.state is ConnectionState.OPEN for one in net.client.held), "all open"
        )
        run("tc qdisc add dev lo clsact")
        run("tc filter add dev lo ingress protocol all pref 1 bpf da bytecode '1,6 0 0 2'")  # drops all
        for _ in range(round(SILENT_S / TICK_S)):
            net.tick()
        assert Counter((one.state, one.reason) for one in net.client.held) == {(ConnectionState.OPEN, ""): HELD}
        run("tc filter del dev lo ingress protocol all pref 1")
        since = net.now
        wait_for(lambda: net.all_answered(since), "an answer on each")
        assert {(one.state, one.owner) for one in net.client.held} == {(ConnectionState.OPEN, "b1")}
