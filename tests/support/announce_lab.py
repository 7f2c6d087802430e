# SPDX-License-Identifier: Apache-2.0
"""The lab of the tests of lbctl announce: the cluster with a second VIP allowed, and what its router knows."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.cluster_lab import FOUR, ClusterLab, cluster_lab, copy_topology, edit
from support.waiting import wait_for

from topology.demo.cluster import VIP
from topology.demo.router_watch import RouterWatch

SECOND = "10.99.0.2"


FILES = {"bird": "segment.clab.yml", "frr": "segment-frr.clab.yml"}
STATE = ("run/anylb/state.json", "run/anylb/members.json")


@dataclass(frozen=True)
class BgpPath:
    """One path to the VIP in the router's BGP."""

    as_path: tuple[int, ...]
    med: int | None
    communities: frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Announcing:
    """The cluster, its configuration's file, and the router's next hops."""

    cluster: ClusterLab
    file: Path
    watch: RouterWatch

    def announce(self, node: str, *arguments: str, code: int = 0) -> Any:
        return self.cluster.lbctl(node, "announce", *arguments, code=code)

    def status(self, node: str) -> Any:
        """Return what `lbctl announce status -o json` prints."""
        return self.cluster.request(node, "GET", "/announce")

    def row(self, node: str) -> dict[str, Any]:
        (row,) = self.status(node)["peers"]
        return dict(row)

    def next_hops(self) -> set[str]:
        return {self.cluster.names.get(hop, hop) for hop in self.watch.history.current}

    def paths(self) -> dict[str, BgpPath]:
        """Return all paths by node, the best and the others."""
        return (bird_paths if self.cluster.router == "bird" else frr_paths)(self.cluster)

    def on_lo(self, node: str, vip: str) -> bool:
        return f" {vip}/32" in self.cluster.lab.exec(node, ["ip", "address", "show", "lo"]).stdout

    def routed(self, vip: str) -> bool:
        return bool(self.cluster.lab.exec("router", ["ip", "route", "show", vip]).stdout)

    @contextlib.contextmanager
    def relay_stopped(self, node: str) -> Iterator[None]:
        """Stop the relay, for less than the 10 s after which its dead-man fires."""
        self.cluster.kill(node, "relay", signal.SIGSTOP)
        try:
            yield
        finally:
            self.cluster.kill(node, "relay", signal.SIGCONT)

    def restart_agent(self, node: str, lose_state: bool = False) -> None:
        self.cluster.stop_agent(node, signal.SIGKILL)
        if lose_state:
            for file in STATE:
                (self.cluster.lab.root(node) / file).unlink()
        self.cluster.start_agent(node)
        wait_for(lambda: self.status(node)["peers"], f"{node} to know its sessions")


def bird_paths(cluster: ClusterLab) -> dict[str, BgpPath]:
    shown = cluster.lab.exec("router", ["birdc", "show", "route", "all", f"{VIP}/32"]).stdout
    found = {}
    for block in re.split(r"(?=\bunicast \[)", shown)[1:]:
        via = re.search(r"via ([0-9.]+)", block)
        assert via
        as_path = re.search(r"BGP\.as_path: ([0-9 ]+)", block)
        med = re.search(r"BGP\.med: ([0-9]+)", block)
        community = re.search(r"BGP\.community: (.+)", block)
        pairs = re.findall(r"\(([0-9]+),([0-9]+)\)", community[1]) if community else []
        found[cluster.names[via[1]]] = BgpPath(
            tuple(map(int, as_path[1].split())) if as_path else (),
            int(med[1]) if med else None,
            frozenset((int(a), int(b)) for a, b in pairs),
        )
    return found


def frr_paths(cluster: ClusterLab) -> dict[str, BgpPath]:
    shown = cluster.lab.exec("router", ["vtysh", "-c", f"show bgp ipv4 unicast {VIP}/32 json"]).stdout
    found = {}
    for path in json.loads(shown).get("paths", []):
        listed = path.get("community", {}).get("list", [])
        pairs = [(65535, 0) if one == "gracefulShutdown" else tuple(map(int, one.split(":"))) for one in listed]
        found[cluster.names[path["nexthops"][0]["ip"]]] = BgpPath(
            tuple(int(number) for segment in path["aspath"]["segments"] for number in segment["list"]),
            path.get("metric"),
            frozenset(pairs),
        )
    return found


@contextlib.contextmanager
def announce_lab(router: str, directory: Path) -> Iterator[Announcing]:
    """Bring the lab up with BIRD or FRR from a copy of its files in this folder; all four nodes announce."""
    folder = copy_topology(directory)
    edit(folder / "lb.yml", ("bgp:\n", "bgp:\n  allow: [10.99.0.0/24]\n"))
    edit(folder / "routers/bird.conf", (f"[ {VIP}/32 ]", f"[ {VIP}/32, {SECOND}/32 ]"))
    permit = "ip prefix-list vips-ipv4 permit"
    edit(folder / "routers/frr.conf", (f"{permit} {VIP}/32\n", f"{permit} {VIP}/32\n{permit} {SECOND}/32\n"))
    with (
        cluster_lab(f"announce-{router}", folder / FILES[router], router=router) as cluster,
        RouterWatch(cluster.lab.nodes["router"].pid, VIP) as watch,
    ):
        made = Announcing(cluster, folder / "lb.yml", watch)
        wait_for(lambda: made.next_hops() == set(FOUR), "four next hops")
        yield made
