# SPDX-License-Identifier: Apache-2.0
"""A cluster whose nodes read one lb.yml that a test changes, and the router's next hops over time."""

from __future__ import annotations

from pathlib import Path

from support.cluster_lab import FOUR, ClusterLab, edit
from support.waiting import wait_for

from topology.demo.router_watch import NextHopHistory


class Operator:
    """The cluster, its configuration's file, and the router's next hops over time."""

    def __init__(self, cluster: ClusterLab, file: Path, history: NextHopHistory) -> None:
        self.cluster, self.file, self.history = cluster, file, history
        self.lbctl, self.status = cluster.lbctl, cluster.status
        self.text = file.read_text()
        self.changed: set[str] = set()
        """The nodes that may have read another text than the original."""

    def configure(self, *replacements: tuple[str, str]) -> None:
        """Write the original configuration with some texts replaced."""
        self.file.write_text(self.text)
        edit(self.file, *replacements)

    def reload(self, *nodes: str) -> None:
        for node in nodes:
            assert self.lbctl(node, "agent", "reload") == "reloaded\n"
            self.changed.add(node)

    def share(self, of: str, seen_by: str) -> tuple[str, int, int]:
        """State, nominal and effective weight of a member by the status of another node."""
        members = self.status(seen_by)["services"][0]["members"]
        found = next(m for m in members if m["address"] == self.cluster.addresses[of])
        return found["state"], found["weight"], found["effective"]

    def next_hops(self) -> set[str]:
        return {self.cluster.names.get(hop, hop) for hop in self.history.current}

    def settle(self) -> None:
        """Wait until all four announce and agree on the tables."""
        wait_for(lambda: self.next_hops() == set(FOUR), "four next hops")
        wait_for(self.cluster.tables_agree, "equal tables")
