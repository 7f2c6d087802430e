# SPDX-License-Identifier: Apache-2.0
"""One lab with the demo's cluster in it, in the scenario's words: start, kill, drain, what the tables and router say.

Owns the ways into the nodes (processes, control sockets, the router's shell); decides nothing about what should happen
(scenario.py) and judges nothing (report.py).
"""

import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from topology.errors import LabError
from topology.lab.lab import Lab

VIP = "10.99.0.1"
SERVICE = "echo"
ADDRESS_VARIABLE = "ADDRESS"  # of a server, in segment.clab.yml: its address on the segment
SEGMENT_INTERFACE = "eth2"  # the router's, towards the servers
NODE_INTERFACE = "eth1"  # a server's, towards the segment
AGENT_SOCKET = "run/anylb/agent.sock"
BGP_PORT = 179
ANSWER_S = 5.0

#: As in segment.clab.yml; a node's PATH begins with this virtual environment.
COMMANDS = {
    "agent": ("lbctl", "agent", "run"),
    "speaker": ("lbctl", "bgp", "run"),
    "server": ("python", "-m", "topology.traffic.server"),
}
LOGS = {"agent": "agent.log", "speaker": "bgp.log", "server": "server.log"}


def is_daemon(daemon: str, argv: Sequence[str]) -> bool:
    """Tell by its command line whether a process is a node's `agent`, `speaker` (ExaBGP), `relay` or `server`."""
    bare = [Path(word).name for word in argv]
    match daemon:
        case "agent":
            return any(bare[i : i + 3] == ["lbctl", "agent", "run"] for i in range(len(bare)))
        case "speaker":
            return "server" in bare and any(word.startswith("exabgp") for word in bare[: bare.index("server")])
        case "relay":
            return any(word.startswith("relay.pyz") for word in bare)
        case "server":
            return any(list(argv[i : i + 2]) == ["-m", "topology.traffic.server"] for i in range(len(argv)))
    raise ValueError(daemon)


def established_to(port: int, table: str) -> str | None:
    """Find in /proc/net/tcp the local end of the established connection to a remote port, `address:port` in hex."""
    for line in table.splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if state == "01" and remote.endswith(f":{port:04X}"):
            return local
    return None


@dataclass(frozen=True, slots=True)
class NodeView:
    """What one node's agent says of the service. Nodes by name.

    `digest` is that of its tables, `takers` take new connections, `listed` may be in chains.
    """

    digest: str
    takers: frozenset[str]
    listed: frozenset[str]


def view_of(status: dict[str, Any], names: Mapping[str, str]) -> NodeView | None:
    """Read GET /status, with the nodes' names by address; None while the agent is not ready."""
    for service in status["services"]:
        if service["name"] == SERVICE and status["ready"]:
            members = [(names.get(m["address"], m["address"]), m) for m in service["members"]]
            return NodeView(
                digest=service["digest"],
                takers=frozenset(name for name, m in members if m["state"] == "up" and m["effective"] > 0),
                listed=frozenset(name for name, m in members if m["state"] != "left"),
            )
    return None


def agree(views: Iterable[NodeView | None], takers: frozenset[str], gone: frozenset[str]) -> bool:
    """True if all views are there, the same down to the rows, and as they should be."""
    seen = set(views)
    if len(seen) != 1:
        return False
    (view,) = seen
    return view is not None and view.takers == takers and not gone & view.listed


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Cluster:
    """A lab that is up, and the processes in its nodes."""

    def __init__(self, lab: Lab, router: str) -> None:
        self.lab = lab
        self.router = router
        environments = {name: node.env for name, node in lab.nodes.items()}
        #: The servers' addresses by name, and the other way round.
        self.addresses = {n: env[ADDRESS_VARIABLE] for n, env in environments.items() if ADDRESS_VARIABLE in env}
        self.names = {address: name for name, address in self.addresses.items()}

    # --- processes ---------------------------------------------------------------------------------------------------

    def start(self, node: str, *daemons: str) -> None:
        """Start daemons on a node; their output is appended to the logs in its /var/log/anylb."""
        logs = self.lab.root(node) / "var/log/anylb"
        logs.mkdir(parents=True, exist_ok=True)
        for daemon in daemons:
            self.lab.spawn(node, COMMANDS[daemon], log=logs / LOGS[daemon])

    def pids(self, node: str, daemon: str) -> list[int]:
        """Host pids of a daemon's processes on a node."""
        namespace = os.stat(f"/proc/{self.lab.nodes[node].pid}/ns/pid").st_ino
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                argv = Path("/proc", entry, "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
                if argv and is_daemon(daemon, argv) and os.stat(f"/proc/{entry}/ns/pid").st_ino == namespace:
                    found.append(int(entry))
            except OSError:  # it ended meanwhile
                continue
        return found

    def kill(self, node: str, daemon: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a daemon on a node; raise LabError if it does not run there."""
        pids = self.pids(node, daemon)
        if not pids:
            raise LabError(f"lab {self.lab.name}: no {daemon} runs on {node}; see /var/log/anylb there")
        for pid in pids:
            os.kill(pid, number)

    def stop(self, node: str, *daemons: str) -> None:
        """End daemons with SIGTERM, one after the other, and wait until each is gone."""
        for daemon in daemons:
            self.kill(node, daemon, signal.SIGTERM)
            self.wait(f"{daemon} on {node} to end", partial(self._ended, node, daemon))

    def _ended(self, node: str, daemon: str) -> bool:
        return not self.pids(node, daemon)

    # --- agents ------------------------------------------------------------------------------------------------------

    def ask(self, node: str, method: str, path: str) -> dict[str, Any]:
        """Send a request to a node's agent; raise LabError if it is not there or refuses."""
        connection = _UnixConnection(self.lab.root(node) / AGENT_SOCKET)
        try:
            connection.request(method, path)
            reply = connection.getresponse()
            body: dict[str, Any] = json.loads(reply.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise LabError(f"lab {self.lab.name}: the agent on {node} does not answer: {error}") from None
        finally:
            connection.close()
        if reply.status >= 400:
            raise LabError(f"lab {self.lab.name}: the agent on {node}: {body.get('error', reply.reason)}")
        return body

    def view(self, node: str) -> NodeView | None:
        """Return a node's view of the service; None if its agent is not there or not ready."""
        try:
            return view_of(self.ask(node, "GET", "/status"), self.names)
        except LabError:
            return None

    def reachable(self, node: str) -> bool:
        """True if the node's agent answers."""
        try:
            self.ask(node, "GET", "/status")
        except LabError:
            return False
        return True

    def counters(self, node: str) -> dict[str, int]:
        """Return the data path's counters of the service on a node."""
        services = self.ask(node, "GET", "/status")["services"]
        counters: dict[str, int] = next(s["counters"] for s in services if s["name"] == SERVICE)
        return counters

    # --- the rest ----------------------------------------------------------------------------------------------------

    def mac(self, node: str) -> bytes:
        """Return a node's MAC on the segment."""
        text = (self.lab.root(node) / f"sys/class/net/{NODE_INTERFACE}/address").read_text()
        return bytes.fromhex(text.strip().replace(":", ""))

    def session(self, node: str) -> str | None:
        """Return what tells a node's present BGP session from an earlier one, its local TCP port; None without one."""
        return established_to(BGP_PORT, Path(f"/proc/{self.lab.nodes[node].pid}/net/tcp").read_text())

    def clear_session(self, node: str) -> None:
        """Have the router reset its BGP session with a node."""
        if self.router == "frr":
            self.lab.exec("router", ["vtysh", "-c", f"clear bgp {self.addresses[node]}"])
        else:
            self.lab.exec("router", ["birdc", "restart", node])  # routers/bird.conf names the sessions so

    def crash(self, node: str) -> None:
        """Power loss."""
        self.lab.kill(node)

    def wait(self, what: str, condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
        """Poll until `condition` holds; raise LabError that names `what` if it does not in time."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise LabError(f"lab {self.lab.name}: waited {timeout_s:g} s in vain for {what}")
            time.sleep(0.03)
