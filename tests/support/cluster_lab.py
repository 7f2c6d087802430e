# SPDX-License-Identifier: Apache-2.0
"""The harness of the cluster tests: the demo's cluster in a lab, with an operator's commands and clients of the VIPs.

Owns what several of these tests need: bringing the lab up from a copy of topology/ if a test changes its files, lbctl,
connections from the client node, next hops, and when all tables agree. Each test owns its failure and its assertions.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from support.waiting import wait_for

from bgp.relay.deadman import DEADMAN_S
from topology.demo.agent_client import tables_agree
from topology.demo.cluster import VIP, Cluster
from topology.lab.lab import Lab
from topology.lab.netns import inside_net

TOPOLOGY = Path(__file__).parents[2] / "topology"
NAMED_SOON = Path(__file__).parents[1] / "cluster/soon"
FOUR = ("b1", "b2", "b3", "b4")
PORT = 7000
FIRST_SOURCE_PORT = 20_000
HEARTBEAT_S = 2.0
"""An agent's last message to the relay is a second old at most."""


class ClusterLab(Cluster):
    """A cluster in a lab that is up."""

    def __init__(self, lab: Lab, router: str) -> None:
        super().__init__(lab, router)
        self._connections = itertools.count()

    # --- an operator's commands --------------------------------------------------------------------------------------

    def lbctl(self, node: str, *arguments: str, code: int = 0) -> Any:
        """Run lbctl on a node and check its exit code; return JSON if `json` is asked for, else its whole output."""
        done = self.lab.exec(node, ["lbctl", *arguments], check=False)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout) if "json" in arguments else done.stdout + done.stderr

    def explain(self, node: str, flow: str) -> Any:
        """Return what `lbctl explain -o json` prints, without the start of a program, which costs far more."""
        return self.request(node, "GET", f"/explain?tuple={flow}")

    def walks(self, node: str, flow: str, at: str | None = None) -> Any:
        """Return the walks of `lbctl explain --live`, once all nodes on them have answered within its second."""
        found: list[Any] = []
        resource = f"/explain/live?tuple={flow}" + (f"&at={at}" if at else "")

        def all_answered() -> bool:
            found[:] = self.request(node, "GET", resource)["walks"]
            return all(step["answers"] for walk in found for step in walk["steps"])

        wait_for(all_answered, f"all nodes to answer {node} about {flow}")
        return found

    def status(self, node: str) -> Any:
        """Return the status of a node's agent."""
        return self.request(node, "GET", "/status")

    def stop_agent(self, node: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End a node's agent by a signal and wait until it is gone, its sockets too: these are closed a moment after a
        killed process has no command line any more."""
        with contextlib.ExitStack() as stack:
            ends = [os.pidfd_open(pid) for pid in self.pids(node, "agent")]
            for end in ends:
                stack.callback(os.close, end)
            self.kill(node, "agent", number)
            wait_for(lambda: len(select.select(ends, [], [], 0)[0]) == len(ends), f"{node}'s agent to end")

    def start_agent(self, node: str) -> None:
        """Start a node's agent and wait until it is ready."""
        self.start(node, "agent")
        wait_for(lambda: self.service_status(node), f"{node}'s agent to be ready")

    @staticmethod
    def replace_agent(replace: Callable[[], None], settled: Callable[[], object]) -> None:
        """Have `replace` end a node's agent and start the next one before the relay counts the first as gone.

        It may take too long for that on a busy machine, and the relay withdraws the VIPs: once more then, when all is
        `settled`.
        """
        for _ in range(5):
            began = time.monotonic()
            replace()
            if time.monotonic() - began < DEADMAN_S - HEARTBEAT_S:
                return
            wait_for(settled, "all to be as before")
        raise AssertionError(f"no agent is replaced within {DEADMAN_S:g} s: the machine is too busy")

    # --- state of the cluster ----------------------------------------------------------------------------------------

    def next_hops(self, vip: str = VIP) -> set[str]:
        """Return the nodes that the router's kernel routes a VIP to."""
        routes = json.loads(self.lab.exec("router", ["ip", "-j", "route", "show", vip]).stdout or "[]")
        legs = [leg for route in routes for leg in route.get("nexthops", [route])]
        return {self.names[leg["gateway"]] for leg in legs}

    def tables_agree(self, nodes: Iterable[str] = FOUR, takers: Iterable[str] = FOUR) -> bool:
        """Return whether these nodes have equal tables and the same takers of new connections."""
        return tables_agree(map(self.service_status, nodes), frozenset(takers), frozenset())

    def service_counters(self, service: str, nodes: Iterable[str] = FOUR) -> dict[str, dict[str, int]]:
        """Return the data path's counters of a service by node."""
        statuses = {node: self.status(node) for node in nodes}
        return {
            node: next(s["counters"] for s in status["services"] if s["name"] == service)
            for node, status in statuses.items()
        }

    # --- clients -----------------------------------------------------------------------------------------------------

    def connect(
        self, vip: str = VIP, port: int = PORT, timeout_s: float = 15.0, source: tuple[str, int] | None = None
    ) -> socket.socket:
        """Connect from the client node: from `source`, else from an address and port that no other connection had."""
        number = next(self._connections)
        if source is None:
            address = f"fd01:0:0:1::{number:x}" if ":" in vip else f"10.1.1.{number % 250 + 1}"
            source = (address, FIRST_SOURCE_PORT + number)
        with inside_net(self.lab.nodes["client"].pid):
            return socket.create_connection((vip, port), timeout_s, source_address=source)

    def connect_many(self, count: int, vip: str = VIP) -> list[socket.socket]:
        """Open so many connections, each answered once."""
        connections = [self.connect(vip) for _ in range(count)]
        for connection in connections:
            server_of(connection)
        return connections

    def server_at(self, source: tuple[str, int]) -> str:
        """Return the server that answers a new connection from an address and port."""
        with self.connect(source=source) as connection:
            return server_of(connection)


def server_of(connection: socket.socket) -> str:
    """Send one line and return the server that answers; an error or AssertionError if the connection is broken."""
    connection.sendall(b"1\n")
    answer = connection.recv(100)
    assert answer, "the connection was closed"
    return answer.split()[0].decode()


def server_or_none(connection: socket.socket) -> str | None:
    """Return the server that answers on a connection; None if it is broken."""
    try:
        return server_of(connection)
    except (OSError, AssertionError):
        return None


def copy_topology(folder: Path) -> Path:
    """Copy the labs' files into a new folder `topology`, for a test that changes them.

    All folders above it must be open to daemons that are not root.
    """
    copy = folder / "topology"
    shutil.copytree(TOPOLOGY, copy, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return copy


def edit(file: Path, *replacements: tuple[str, str]) -> None:
    """Replace texts of a file in place: a bind mount follows the file, not its name."""
    text = file.read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)


def be_patient(topology: Path) -> None:
    """Have BGP sessions of a copied segment.clab.yml last for 90 s without a KEEPALIVE, not 3 s.

    For tests in which no node dies silently: a daemon that gets no CPU for seconds loses none then.
    """
    edit(topology / "lb.yml", ("hold_time_s: 3 ", "hold_time_s: 90 "))
    edit(topology / "routers/bird.conf", ("hold time 3;", "hold time 90;"))
    edit(topology / "routers/frr.conf", ("timers 1 3\n", "timers 30 90\n"))


def name_soon(topology: Path) -> None:
    """Have the agents of a copied segment.clab.yml name contradictions after 5 s, not after half a minute."""
    edit(topology / "segment.clab.yml", ("ANYLB_XDP:", f"PYTHONPATH: {NAMED_SOON}\n        ANYLB_XDP:"))


@contextlib.contextmanager
def cluster_lab(
    name: str, file: Path = TOPOLOGY / "segment.clab.yml", env: Mapping[str, str] | None = None, router: str = "bird"
) -> Iterator[ClusterLab]:
    """Bring a lab up; it ends with this process at the latest."""
    with Lab.up(file, f"{name}-{os.getpid()}", env, keep=False) as lab:
        yield ClusterLab(lab, router)
