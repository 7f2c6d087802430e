# SPDX-License-Identifier: Apache-2.0
"""`forward` changes on live nodes, one after the other: l2 to gue, gue to ipip, ipip to l2, under open connections.

    client ── router (BIRD) ── segment ── b1 b2 b3 b4      segment.clab.yml, in a copy whose lb.yml changes

The control is the counters: while nodes differ, packets do come in tunnels to nodes that use none, and by MAC to nodes
that use tunnels; a drain in the middle has old owners looked for across the difference.
"""

import itertools
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from topology.demo.cluster import VIP, Cluster
from topology.lab.lab import Lab
from topology.lab.netns import inside_net

pytestmark = pytest.mark.lab
TOPOLOGY = Path(__file__).parents[2] / "topology"
NODES = ("b1", "b2", "b3", "b4")
CHANGED_FIRST = NODES[:2]
HELD = 120
PORTS = itertools.count(20_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab's files, to be written to; the folder's way must be open to daemons that are not root."""
    copy = tmp_path_factory.mktemp("forward") / "topology"
    shutil.copytree(TOPOLOGY, copy, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return copy


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[Cluster]:
    with Lab.up(folder / "segment.clab.yml", f"forward-test-{os.getpid()}", keep=False) as lab:
        made = Cluster(lab, "bird")
        made.wait("equal tables", lambda: agree(made, NODES), 30.0)
        yield made


def agree(cluster: Cluster, takers: tuple[str, ...]) -> bool:
    views = {cluster.service_status(node) for node in NODES}
    view = views.pop()
    return view is not None and not views and view.takers == frozenset(takers)


class Clients:
    """Connections from many addresses, each of which must go on being answered by the server that it began with."""

    def __init__(self, cluster: Cluster, stack: ExitStack) -> None:
        self._cluster, self._stack = cluster, stack
        self.held: list[tuple[socket.socket, str]] = []

    def open(self, count: int) -> None:
        """Open so many more. Raises OSError if one is refused or gets no answer."""
        with inside_net(self._cluster.lab.nodes["client"].pid):
            for _ in range(count):
                port = next(PORTS)
                source = (f"10.1.1.{port % 250 + 1}", port)
                one = self._stack.enter_context(socket.create_connection((VIP, 7000), 10.0, source_address=source))
                self.held.append((one, say(one)))

    def broken(self) -> int:
        """How many of the held ones break, or are answered by another than they began with."""
        return sum(say(one) != owner for one, owner in self.held)


def say(connection: socket.socket) -> str:
    """Who answers; the error's name if nobody does."""
    try:
        connection.sendall(b"1\n")
        return connection.recv(100).decode().split()[0]
    except (OSError, IndexError) as error:
        return type(error).__name__


def restart(cluster: Cluster, nodes: tuple[str, ...], forward: str, config: Path) -> None:
    """Write the configuration anew, and let these nodes follow it."""
    text, changes = re.subn(r"forward: \w+", f"forward: {forward}", config.read_text())
    assert changes == 1
    config.write_text(text)  # in place: the nodes have this very file
    for node in nodes:
        cluster.stop(node, "agent")
        cluster.start(node, "agent")
        cluster.wait(f"{node} to be ready", lambda node=node: cluster.service_status(node) is not None, 30.0)  # type: ignore[misc]
    cluster.wait("equal tables", lambda: agree(cluster, NODES), 30.0)


def tally(cluster: Cluster, nodes: tuple[str, ...]) -> dict[str, int]:
    """The counters that tell by which way packets came, and that older owners were looked for, over some nodes."""
    found = [cluster.counters(node) for node in nodes]
    return {name: sum(one.get(name, 0) for one in found) for name in ("rx_forwarded", "rx_tunnel", "forward_again")}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("before", "after"), [("l2", "gue"), ("gue", "ipip"), ("ipip", "l2")])
def test_a_change_of_forward_breaks_nothing_at_any_stage(
    cluster: Cluster, folder: Path, before: str, after: str
) -> None:
    config, rest = folder / "lb.yml", NODES[len(CHANGED_FIRST) :]
    if f"forward: {before}\n" not in config.read_text():  # a test before this one failed, or did not run
        restart(cluster, NODES, before, config)
    with ExitStack() as stack:
        clients = Clients(cluster, stack)
        clients.open(HELD)
        restart(cluster, CHANGED_FIRST, after, config)
        mixed = {nodes: tally(cluster, nodes) for nodes in (CHANGED_FIRST, rest)}
        assert clients.broken() == 0
        clients.open(HELD)

        cluster.request("b4", "POST", "/drain")
        cluster.wait("b4 to own nothing", lambda: agree(cluster, NODES[:3]))
        assert clients.broken() == 0
        cluster.request("b4", "POST", "/undrain")
        cluster.wait("b4 to be back", lambda: agree(cluster, NODES))
        assert clients.broken() == 0
        for nodes, were in mixed.items():
            grown = {name: value - were[name] for name, value in tally(cluster, nodes).items()}
            assert 0 < grown["rx_tunnel"] <= grown["rx_forwarded"]
            assert grown["rx_tunnel"] < grown["rx_forwarded"] or "l2" not in (before, after)
            assert grown["forward_again"] > 0

        restart(cluster, rest, after, config)
        done = tally(cluster, NODES)
        assert clients.broken() == 0
        clients.open(HELD)
    ended = tally(cluster, NODES)
    tunnelled, forwarded = (ended[name] - done[name] for name in ("rx_tunnel", "rx_forwarded"))
    assert forwarded > 0
    assert tunnelled == (0 if after == "l2" else forwarded)
