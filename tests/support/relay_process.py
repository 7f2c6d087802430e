# SPDX-License-Identifier: Apache-2.0
"""A relay process without ExaBGP: the test writes ExaBGP's lines, reads the commands, and connects as the agent."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from bgp.exabgp.messages import PING
from bgp.relay.protocol import Goodbye, Snapshot
from bgp.relay.report import ReportReader
from bgp.route import Route

ROOT = Path(__file__).parents[2]
PEER = "10.0.0.1"
VIP = Route.of("10.99.0.1/32", "10.0.0.11")
NEIGHBORS = json.dumps(
    [
        {
            "fsm": "ESTABLISHED",
            "duration": 5,
            "local": {"address": "10.0.0.11", "as": 65001, "families": {"ipv4 unicast": True}},
            "peer": {"address": PEER, "as": 65000},
            "families": ["ipv4 unicast"],
        }
    ]
)


def update(route: Route) -> str:
    """Return ExaBGP's event for an UPDATE with one route."""
    attributes = {"large-community": [list(community) for community in route.large_communities]}
    content = {"attribute": attributes, "announce": {"ipv4 unicast": {route.next_hop: [{"nlri": route.prefix}]}}}
    neighbor = {"address": {"peer": PEER}, "message": {"update": content}}
    return json.dumps({"exabgp": "5.0.0", "type": "update", "neighbor": neighbor})


class RelayProcess:
    """A relay process, and ExaBGP's end of its pipes."""

    def __init__(self, directory: Path, agent_uid: int = 0) -> None:
        self.socket_path = directory / "relay.sock"
        allowlist = directory / "allow"
        allowlist.write_text("10.99.0.0/24\n10.254.0.11/32\nlearn 10.254.0.0/16\n")
        # Not the archive that ExaBGP starts: Python compiles that at each start, which takes half of it.
        argv = ["/usr/bin/python3", "-S", "-c", "from bgp.relay.process import main; raise SystemExit(main())"]
        argv += ["--socket", str(self.socket_path)]
        argv += ["--agent-uid", str(agent_uid), "--allow", str(allowlist)]
        self.process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._buffer = b""

    def send(self, *lines: str) -> None:
        """Write lines as ExaBGP."""
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{line}\n" for line in lines).encode())

    def command(self) -> str:
        """Return the next command from the relay, after answering those that only ask for an answer."""
        while (line := self._line()) == PING:
            self.send("done")
        return line

    def _line(self) -> str:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                assert selector.select(5), "no command within 5 s"
                data = os.read(self.process.stdout.fileno(), 4096)
                assert data, "the relay exited"
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def answer_first_commands(self) -> None:
        """Answer the first commands of a new relay: one neighbor, no learned route, empty Adj-RIB-Out."""
        assert [self.command(), self.command()] == ["reset", "version"]
        self.send("exabgp 5.0.15", "done")
        assert self.command() == "show neighbor json"
        self.send(NEIGHBORS, "done")
        assert self.command() == "show adj-rib in json"
        self.send("done")
        assert self.command() == "show adj-rib out json"
        self.send("done")

    def connect(self) -> AgentConnection:
        """Connect as the agent."""
        return AgentConnection(self.socket_path)


class AgentConnection:
    """A plain connection to the relay."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(5)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("rb")
        self.lines = 0
        """How many lines the relay has sent."""
        self._reports = ReportReader()

    def receive(self) -> Snapshot | Goodbye | None:
        """Return the snapshot after the next batch, or the goodbye; None at the end."""
        while line := self.file.readline():
            self.lines += 1
            if (report := self._reports.receive(line)) is not None:
                return report
        return None

    def receive_until(self, reached: Callable[[Snapshot], object]) -> Snapshot:
        """Return the first snapshot for which `reached` is true."""
        while True:
            snapshot = self.receive()
            assert isinstance(snapshot, Snapshot)
            if reached(snapshot):
                return snapshot

    def goodbye(self) -> str:
        """Return the reason with which the relay closed the connection; AssertionError if there was none."""
        last = None
        with contextlib.suppress(ConnectionResetError):
            while (message := self.receive()) is not None:
                last = message
        assert isinstance(last, Goodbye)
        return last.reason
