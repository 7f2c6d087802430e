# SPDX-License-Identifier: Apache-2.0
"""One lab with the demo's cluster in it: its daemons, its agents' status, its BGP sessions.

Owns the actions on nodes and router; decides neither what happens (scenario.py) nor what the result means (report.py).
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from topology.demo import agent_client
from topology.demo.agent_client import SERVICE, RequestError, ServiceStatus, read_service_status
from topology.demo.daemon import COMMANDS, LOGS, find_pids
from topology.errors import LabError
from topology.lab.lab import Lab
from topology.traffic.controller import TrafficController
from topology.traffic.server import PORT

VIP = "10.99.0.1"
ADDRESS_VARIABLE = "ADDRESS"  # of a server, in segment.clab.yml: its address on the segment
SEGMENT_INTERFACE = "eth2"  # the router's, to the servers
NODE_INTERFACE = "eth1"  # a server's, to the segment
AGENT_SOCKET = "run/anylb/agent.sock"
TRAFFIC_SOCKET = "run/anylb-traffic.sock"
BGP_PORT = 179
PAUSE_SHARE = 0.05  # of the time waited so far


def established_local_end(port: int, table: str) -> str | None:
    """Find in /proc/net/tcp the local end of the established connection to a remote port, `address:port` in hex."""
    for line in table.splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if state == "01" and remote.endswith(f":{port:04X}"):
            return local
    return None


def established_from(port: int, table: str) -> frozenset[str]:
    """Return the other ends, `address:port`, of the established connections to a local port in /proc/net/tcp."""
    found = set()
    for line in table.splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if state == "01" and local.endswith(f":{port:04X}"):
            address, source_port = remote.split(":")
            found.add(f"{IPv4Address(int(address, 16).to_bytes(4, sys.byteorder))}:{int(source_port, 16)}")
    return frozenset(found)


class Cluster:
    """A lab that is up, and the daemons in its nodes. With `nat` nodes hold sessions of backends, not sockets."""

    def __init__(self, lab: Lab, router: str, nat: bool = False) -> None:
        self.lab = lab
        self.router = router
        self._nat = nat
        environments = {name: node.env for name, node in lab.nodes.items()}
        #: The servers' addresses by name, and their names by address.
        self.addresses = {n: env[ADDRESS_VARIABLE] for n, env in environments.items() if ADDRESS_VARIABLE in env}
        self.names = {address: name for name, address in self.addresses.items()}

    # --- daemons -----------------------------------------------------------------------------------------------------

    def start(self, node: str, *daemons: str) -> None:
        """Start daemons on a node; their output is appended to the logs in its /var/log/anylb."""
        logs = self.lab.root(node) / "var/log/anylb"
        logs.mkdir(parents=True, exist_ok=True)
        for daemon in daemons:
            self.lab.spawn(node, COMMANDS[daemon], log=logs / LOGS[daemon])

    def pids(self, node: str, daemon: str) -> list[int]:
        """Return the host pids of a daemon's processes on a node."""
        return find_pids(daemon, self.lab.nodes[node].pid)

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

    def request(self, node: str, method: str, path: str) -> dict[str, Any]:
        """Send a request to a node's agent and return its reply; raise LabError if it does not answer or refuses."""
        try:
            return agent_client.request(self.lab.root(node) / AGENT_SOCKET, method, path)
        except RequestError as error:
            raise LabError(f"lab {self.lab.name}: the agent on {node} {error}") from None

    def service_status(self, node: str) -> ServiceStatus | None:
        """Return a node's status of the service; None if its agent does not answer or is not ready."""
        try:
            return read_service_status(self.request(node, "GET", "/status"), self.names)
        except LabError:
            return None

    def agent_answers(self, node: str) -> bool:
        """Return whether the node's agent answers."""
        try:
            self.request(node, "GET", "/status")
        except LabError:
            return False
        return True

    def counters(self, node: str) -> dict[str, int]:
        """Return the data path's counters of the service on a node."""
        services = self.request(node, "GET", "/status")["services"]
        counters: dict[str, int] = next(s["counters"] for s in services if s["name"] == SERVICE)
        return counters

    def client_ends(self, node: str) -> frozenset[str]:
        """Return the clients' ends, `address:port`, of the connections to the service that a node or backend holds.

        A backend's are those of the pool, or of a proxy.
        """
        if self._nat and node in self.addresses:
            listed = json.loads(self.lab.exec(node, ["lbctl", "session", "list", "-o", "json"]).stdout)
            return frozenset(one["client"] for one in listed["sessions"] if one.get("service") == SERVICE)
        return established_from(PORT, Path(f"/proc/{self.lab.nodes[node].pid}/net/tcp").read_text())

    def backends_up(self, node: str) -> frozenset[str]:
        """Return the backends of the service, by their addresses, that a node takes for healthy."""
        services = self.request(node, "GET", "/status")["services"]
        backends = next(one["backends"] for one in services if one["name"] == SERVICE)
        return frozenset(one["address"].rpartition(":")[0] for one in backends if one["healthy"])

    def wait_for_backend(self, address: str, nodes: Iterable[str], up: bool) -> None:
        """Wait until all these nodes take a backend for healthy, or not; without NAT no node has backends."""
        if self._nat:
            state = "up" if up else "down"
            self.wait(
                f"{address} to be {state}",
                lambda: {address in self.backends_up(node) for node in nodes} == {up},
            )

    # --- the client --------------------------------------------------------------------------------------------------

    def start_traffic(self, *options: str) -> TrafficController:
        """Start the traffic program on the client node; it ends when its controller, the result, quits."""
        argv = ["python", "-m", "topology.traffic", "--vip", VIP, "--control", f"/{TRAFFIC_SOCKET}", *options]
        self.lab.spawn("client", argv, self.lab.root("client") / "var/log/traffic.log")
        return TrafficController.connect(self.lab.root("client") / TRAFFIC_SOCKET)

    # --- nodes and BGP sessions --------------------------------------------------------------------------------------

    def mac(self, node: str) -> bytes:
        """Return a node's MAC on the segment."""
        text = (self.lab.root(node) / f"sys/class/net/{NODE_INTERFACE}/address").read_text()
        return bytes.fromhex(text.strip().replace(":", ""))

    def bgp_session(self, node: str) -> str | None:
        """Return the local TCP end of a node's BGP session, which differs for each session; None without one."""
        return established_local_end(BGP_PORT, Path(f"/proc/{self.lab.nodes[node].pid}/net/tcp").read_text())

    def has_bgp_session(self, node: str) -> bool:
        """Return whether a node's BGP session is established."""
        return self.bgp_session(node) is not None

    def clear_session(self, node: str) -> None:
        """Make the router reset its BGP session with a node."""
        if self.router == "frr":
            self.lab.exec("router", ["vtysh", "-c", f"clear bgp {self.addresses[node]}"])
        else:
            self.lab.exec("router", ["birdc", "restart", node])  # the session's name in routers/bird.conf

    def crash(self, node: str) -> None:
        """Cut a node's power."""
        self.lab.kill(node)

    def wait(self, what: str, condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
        """Poll until `condition` holds; raise LabError that names `what` if it does not in time.

        What is waited for needs the CPU too: a pause is as long as the poll, and as `PAUSE_SHARE` of the wait so far.
        """
        start = began = time.monotonic()
        while not condition():
            now = time.monotonic()
            if now > start + timeout_s:
                raise LabError(f"lab {self.lab.name}: not within {timeout_s:g} s: {what}")
            time.sleep(min(max(0.03, now - began, PAUSE_SHARE * (now - start)), 0.5))
            began = time.monotonic()
