# SPDX-License-Identifier: Apache-2.0
"""How long new connections wait when a node's wire is cut: `PYTHONPATH=tests python -m bench.crash`. Prints lines.

client ── router (BIRD or FRR, hold time 3 s) ── segment ── b1 … b4, of which b3 is cut off; no link goes down

`--bfd`: router and nodes have BFD, 3 x 300 ms. `--owner`: b3 announces no VIP, so each packet comes by an ingress that
lives. A wait is the time from a first SYN to its SYN-ACK; the client repeats a SYN after 1 s and 3 s.
"""

import argparse
import random
import selectors
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from click.testing import CliRunner
from support.cluster_lab import FOUR, PORT, VIP, ClusterLab, cluster_lab, copy_topology, edit
from support.segment_faults import cut_off
from support.waiting import wait_for

from agent.cli.main import main as lbctl
from topology.lab.netns import inside_net

DEAD = "b3"
PER_S = 200
BEFORE_S, AFTER_S = 0.5, 5.0
LONGEST_S = 8.0
"""After this a connection counts as failed: the third SYN is 3 s after the first, the fourth 7 s."""
WAITED_S = 0.5
"""A connection whose first SYN was answered takes milliseconds."""

Wait = tuple[float, float]
"""When a connection began, and how long it waited; infinity if it failed. CLOCK_MONOTONIC seconds."""


class Connections:
    """New connections from the client node, each closed once it is established."""

    def __init__(self, cluster: ClusterLab) -> None:
        self.waits: list[Wait] = []
        self._selector = selectors.DefaultSelector()
        self._client = cluster.lab.nodes["client"].pid
        self._opened = 0

    def run(self, seconds: float) -> None:
        """Open so many per second for that time."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            self._open(now)
            self._collect(1 / PER_S)

    def finish(self) -> None:
        """Wait for those that are not established; what is left has failed."""
        while self._selector.get_map():
            self._collect(0.1)

    def _open(self, now: float) -> None:
        source = (f"10.1.1.{self._opened % 250 + 1}", 20_000 + self._opened % 40_000)
        self._opened += 1
        with inside_net(self._client):
            sock = socket.socket()
            sock.bind(source)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing leaves no TIME-WAIT
        sock.setblocking(False)
        sock.connect_ex((VIP, PORT))
        self._selector.register(sock, selectors.EVENT_WRITE, now)

    def _collect(self, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while (left := until - time.monotonic()) > 0 and self._selector.get_map():
            for key, _ in self._selector.select(left):
                assert isinstance(key.fileobj, socket.socket)
                failed = key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                self._end(key, float("inf") if failed else time.monotonic() - key.data)
        now = time.monotonic()
        for key in [one for one in self._selector.get_map().values() if now - one.data > LONGEST_S]:
            self._end(key, float("inf"))

    def _end(self, key: selectors.SelectorKey, wait: float) -> None:
        self._selector.unregister(key.fileobj)
        assert isinstance(key.fileobj, socket.socket)
        key.fileobj.close()
        self.waits.append((key.data, wait))


def run(cluster: ClusterLab, connections: Connections, ingresses: set[str]) -> tuple[float, float]:
    """Cut the node off once; return the longest wait, and how long after the cut the last connection began that had
    to wait."""
    wait_for(lambda: cluster.next_hops() == ingresses and cluster.tables_agree(), "all to be there")
    connections.waits.clear()
    connections.run(BEFORE_S + random.random())
    with cut_off(cluster, DEAD):
        cut = time.monotonic()
        connections.run(AFTER_S)
        connections.finish()
    late = [began - cut for began, wait in connections.waits if wait > WAITED_S]
    return max(wait for began, wait in connections.waits if began >= cut - 0.1), max(late, default=0.0)


def bfd_state(cluster: ClusterLab, node: str) -> str:
    """Return the state of a node's BFD session with the router."""
    return str(cluster.status(node)["bgp"]["peers"][0]["bfd"]["state"])


@contextmanager
def lab(router: str, bfd: bool) -> Iterator[ClusterLab]:
    """Bring the lab up, with the router's configuration as `lbctl announce config` prints it."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        folder = copy_topology(Path(made))
        if bfd:
            edit(
                folder / "lb.yml",
                ("      hold_time_s: 3", "      bfd: {interval_ms: 300, multiplier: 3}\n      hold_time_s: 3"),
            )
            file = folder / f"routers/{router}.conf"
            command = next(line for line in file.read_text().splitlines() if "Made by: lbctl " in line)
            arguments = command.partition("lbctl ")[2].replace("topology/lb.yml", str(folder / "lb.yml")).split()
            file.write_text(CliRunner().invoke(lbctl, arguments, catch_exceptions=False).output)
            if router == "frr":
                bgpd = "- /usr/lib/frr/bgpd -d -A 127.0.0.1"
                edit(folder / "segment-frr.clab.yml", (bgpd, f"{bgpd.replace('bgpd', 'bfdd')}\n        {bgpd}"))
        file = folder / ("segment.clab.yml" if router == "bird" else "segment-frr.clab.yml")
        with cluster_lab("crash", file, router=router) as cluster:
            wait_for(lambda: cluster.next_hops() == set(FOUR), "four next hops")
            if bfd:
                wait_for(lambda: all(bfd_state(cluster, node) == "up" for node in FOUR), "BFD")
            yield cluster


def main() -> None:
    """Run one series and print it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--router", choices=("bird", "frr"), default="bird")
    parser.add_argument("--bfd", action="store_true")
    parser.add_argument("--owner", action="store_true")
    parser.add_argument("--runs", type=int, default=10)
    options = parser.parse_args()
    with lab(options.router, options.bfd) as cluster:
        ingresses = set(FOUR)
        if options.owner:
            cluster.lbctl(DEAD, "announce", "down", "--reason", "bench")
            ingresses.remove(DEAD)
        connections = Connections(cluster)
        found = [run(cluster, connections, ingresses) for _ in range(options.runs)]
    longest, until = (sorted(column) for column in zip(*found, strict=True))
    name = f"{options.router}{', BFD' if options.bfd else ''}{', b3 announces nothing' if options.owner else ''}"
    for what, values in (("longest wait", longest), ("the last that waited began", until)):
        listed = " ".join(f"{value:.2f}" for value in values)
        print(
            f"{name}: {what}, s: median {statistics.median(values):.2f}, max {max(values):.2f} ({listed})", flush=True
        )


if __name__ == "__main__":
    main()
