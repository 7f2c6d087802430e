# SPDX-License-Identifier: Apache-2.0
"""A change of `forward` on live nodes, one after the other: l2 to gue, gue to ipip, ipip to l2, under open connections.

    client ── router (BIRD) ── segment ── b1 b2 b3 b4      segment.clab.yml, in a copy whose lb.yml changes

The control is the counters: while nodes differ, packets arrive in tunnels at nodes that use none, and by MAC at nodes
that use tunnels; a drain in between makes nodes look for old owners across the difference.
"""

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.cluster_lab import FOUR, ClusterLab, be_patient, cluster_lab, copy_topology, server_of, server_or_none
from support.waiting import wait_for

pytestmark = pytest.mark.lab
CHANGED_FIRST = FOUR[:2]
HELD = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab's files, for changes."""
    made = copy_topology(tmp_path_factory.mktemp("forward"))
    be_patient(made)
    return made


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[ClusterLab]:
    with cluster_lab("forward-test", folder / "segment.clab.yml") as made:
        wait_for(lambda: settled(made), "four next hops and equal tables")
        yield made


def settled(cluster: ClusterLab) -> bool:
    return cluster.next_hops() == set(FOUR) and cluster.tables_agree()


class Clients:
    """Connections from many addresses; the server that answered first must go on answering."""

    def __init__(self, cluster: ClusterLab, stack: ExitStack) -> None:
        self._cluster, self._stack = cluster, stack
        self.held: list[tuple[socket.socket, str]] = []

    def open(self, count: int) -> None:
        """Open so many more. Raises OSError or AssertionError if one is refused or gets no answer."""
        for _ in range(count):
            one = self._stack.enter_context(self._cluster.connect())
            self.held.append((one, server_of(one)))

    def broken(self) -> int:
        """Return how many of the held ones break, or get their answer from another server than before."""
        return sum(server_or_none(one) != owner for one, owner in self.held)


def restart(cluster: ClusterLab, nodes: tuple[str, ...], forward: str, config: Path) -> None:
    """Write `forward` into the configuration, and restart these nodes' agents."""
    text, changes = re.subn(r"forward: \w+", f"forward: {forward}", config.read_text())
    assert changes == 1
    config.write_text(text)  # in place: it is bind-mounted
    for node in nodes:
        cluster.stop_agent(node)
        cluster.start_agent(node)
    wait_for(lambda: settled(cluster), "four next hops and equal tables")


def sum_counters(cluster: ClusterLab, nodes: tuple[str, ...]) -> dict[str, int]:
    """Sum over some nodes the counters of how packets arrived, and of packets sent on to older owners."""
    found = [cluster.counters(node) for node in nodes]
    return {name: sum(one.get(name, 0) for one in found) for name in ("rx_forwarded", "rx_tunnel", "forward_again")}


@pytest.mark.parametrize(("before", "after"), [("l2", "gue"), ("gue", "ipip"), ("ipip", "l2")])
def test_a_change_of_forward_breaks_no_connection_at_any_stage(
    cluster: ClusterLab, folder: Path, before: str, after: str
) -> None:
    config, rest = folder / "lb.yml", FOUR[len(CHANGED_FIRST) :]
    if f"forward: {before}\n" not in config.read_text():  # a test before this one failed, or did not run
        restart(cluster, FOUR, before, config)
    with ExitStack() as stack:
        clients = Clients(cluster, stack)
        clients.open(HELD)
        restart(cluster, CHANGED_FIRST, after, config)
        mixed = {nodes: sum_counters(cluster, nodes) for nodes in (CHANGED_FIRST, rest)}
        assert clients.broken() == 0
        clients.open(HELD)

        cluster.request("b4", "POST", "/drain")
        wait_for(lambda: cluster.tables_agree(takers=FOUR[:3]), "b4 to own nothing")
        assert clients.broken() == 0
        cluster.request("b4", "POST", "/undrain")
        wait_for(lambda: settled(cluster), "b4 to be back")
        assert clients.broken() == 0
        for nodes, were in mixed.items():
            grown = {name: value - were[name] for name, value in sum_counters(cluster, nodes).items()}
            assert 0 < grown["rx_tunnel"] <= grown["rx_forwarded"]
            assert grown["rx_tunnel"] < grown["rx_forwarded"] or "l2" not in (before, after)
            assert grown["forward_again"] > 0

        restart(cluster, rest, after, config)
        done = sum_counters(cluster, FOUR)
        assert clients.broken() == 0
        clients.open(HELD)
    ended = sum_counters(cluster, FOUR)
    tunnelled, forwarded = (ended[name] - done[name] for name in ("rx_tunnel", "rx_forwarded"))
    assert forwarded > 0
    assert tunnelled == (0 if after == "l2" else forwarded)
