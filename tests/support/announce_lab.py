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

from support.cluster_lab import FOUR, ClusterLab, be_patient, cluster_lab, copy_topology, edit
from support.waiting import wait_for

from topology.demo.cluster import VIP
from topology.demo.router_watch import RouterWatch

SECOND = "10.99.0.2"


FILES = {"bird": "segment.clab.yml", "frr": "segment-frr.clab.yml"}
STATE = ("run/anylb/state.json", "run/anylb/members.json")
WAIT = ("--timeout", "120s")
"""The time limit of --wait where a test gives none."""


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
        limit = WAIT if "--wait" in arguments and "--timeout" not in arguments else ()
        return self.cluster.lbctl(node, "announce", *arguments, *limit, code=code)

    def status(self, node: str) -> Any:
        """Return what `lbctl announce status -o json` prints."""
        return self.cluster.request(node, "GET", "/announce")

    def row(self, node: str) -> dict[str, Any]:
        (row,) = self.status(node)["peers"]
        return dict(row)

    def others(self, node: str) -> list[str]:
        """Return the other nodes that announce the VIP, as far as this one knows."""
        return [other for vip in self.status(node)["vips"] for other in vip["others"]]

    def is_announced(self, node: str) -> bool:
        """Whether a node's agent has decided to announce the VIP, and knows that it does."""
        report = self.status(node)
        wanted = [vip["wanted"] for vip in report["vips"]]
        rows = [[row[key] for key in ("vip", "desired", "out", "session", "why")] for row in report["peers"]]
        return wanted == [True] and rows == [[VIP, "announced", "yes", "up", "healthy"]] and not report["faults"]

    def at_rest(self) -> bool:
        """Whether all four announce the VIP alike, the router has it from them, and each knows so of all."""
        paths = self.paths()
        return (
            self.next_hops() == set(paths) == set(FOUR)
            and len(set(paths.values())) == 1
            and all(self.is_announced(node) and len(self.others(node)) == 3 for node in FOUR)
        )

    def shares(self, service: str) -> bool:
        """Whether all four use the same rows of a service, of all four, and know each other's MAC."""
        statuses = [self.cluster.status(node) for node in FOUR]
        found = [one for status in statuses for one in status["services"] if one["name"] == service]
        takers = [[one["address"] for one in service["members"] if one["effective"] > 0] for service in found]
        return (
            [len(one) for one in takers] == [len(FOUR)] * len(FOUR)
            and len({one["digest"] for one in found}) == 1
            and all(status["tables_written"] for status in statuses)
            and all(member["reachable"] for status in statuses for member in status["members"])
        )

    def fault(self, node: str) -> tuple[float, float, int] | None:
        """Return the last fault of the VIP that the agent remembers: when (CLOCK_MONOTONIC), the hold-down in seconds,
        and how many there were in a row."""
        flaps = json.loads((self.cluster.lab.root(node) / STATE[0]).read_text())["flaps"]
        return tuple(flaps[VIP]) if VIP in flaps else None

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
                (self.cluster.lab.root(node) / file).unlink(missing_ok=True)
        self.cluster.start_agent(node)
        wait_for(lambda: self.status(node)["peers"] and self.others(node), f"{node} to know sessions and others")


def bird_paths(cluster: ClusterLab) -> dict[str, BgpPath]:
    shown = cluster.lab.exec("router", ["birdc", "show", "route", "all", f"{VIP}/32"], check=False).stdout
    found = {}  # without a route birdc fails
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
    be_patient(folder)
    edit(folder / "lb.yml", ("bgp:\n", "bgp:\n  allow: [10.99.0.0/24]\n"))
    edit(folder / "routers/bird.conf", (f"[ {VIP}/32 ]", f"[ {VIP}/32, {SECOND}/32 ]"))
    permit = "ip prefix-list vips-ipv4 permit"
    edit(folder / "routers/frr.conf", (f"{permit} {VIP}/32\n", f"{permit} {VIP}/32\n{permit} {SECOND}/32\n"))
    with (
        cluster_lab(f"announce-{router}", folder / FILES[router], router=router) as cluster,
        RouterWatch(cluster.lab.nodes["router"].pid, VIP) as watch,
    ):
        made = Announcing(cluster, folder / "lb.yml", watch)
        wait_for(made.at_rest, "all four to announce")
        yield made
