# SPDX-License-Identifier: Apache-2.0
"""Part 3: the whole system. HTTP over the lab, direct by ECMP, through anylb, and with a proxy in the middle.

Requests on open connections, and connections of one request each, by wrk, on each path in turn, round after round.
CPU time is that of the whole machine without what foreign processes used. Prints JSON.
"""

import contextlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bench import figures
from bench.cluster import FOLDER, PROXY_VIP, SERVERS, TUNNEL_VIPS, anylb_lab, plain_lab
from bench.figures import Cpu, Load, Process, Round

from topology.demo.agent_client import SERVICE
from topology.demo.cluster import VIP, Cluster

OTHER_VIP: Final = "10.99.0.9"
"""Not a service."""
PROGRAMS: Final = ("wrk", "nginx", "haproxy", "ksoftirqd", "lbctl", "exabgp", "bird")
PATIENCE: Final = 3
SECONDS: Final = 2
CONNECTIONS: Final = 64
LOADS: Final = {"requests": (), "connections": ("-H", "Connection: close")}
"""What is counted, and what makes wrk do it."""


@dataclass(frozen=True)
class Way:
    """A way from the client to the servers."""

    name: str
    cluster: Cluster
    url: str
    service: str = ""
    """Whose packets servers forward; empty if none."""


def snapshot() -> dict[int, str]:
    """Texts of /proc/PID/stat of all processes."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                found[int(entry.name)] = (entry / "stat").read_text(errors="replace")
    return found


def by_program(before: Mapping[int, str], after: Mapping[int, str]) -> dict[str, float]:
    """CPU seconds of each program between two snapshots; its ended children are not its own here."""
    used: dict[str, float] = defaultdict(float)
    for pid, text in after.items():
        name = text[text.index("(") + 1 : text.rindex(")")].split("/")[0]
        used[name] += Process.read(text).own_s - (Process.read(before[pid]).own_s if pid in before else 0.0)
    return used


class Bench:
    """The labs that are up, and what is ours among the machine's processes."""

    def __init__(self, ways: list[Way]) -> None:
        self._roots = {os.getpid()}
        for way in ways:
            self._roots |= {node.pid for node in way.cluster.lab.nodes.values()}

    def load(self, way: Way, extra: tuple[str, ...]) -> Load:
        """Load a way for a while."""
        lab = way.cluster.lab
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-s", str(FOLDER / "report.lua"), *extra]
        processes, cpu = snapshot(), Cpu.read(Path("/proc/stat").read_text())
        done = lab.exec("client", [*command, way.url])
        used = Cpu.read(Path("/proc/stat").read_text()).since(cpu)
        later = snapshot()
        before, after = ({pid: Process.read(text) for pid, text in seen.items()} for seen in (processes, later))
        foreign_s = figures.foreign_s(before, after, self._roots)
        told = json.loads(done.stdout.splitlines()[-1])
        if told["errors"] > told["done"] / 1000:
            raise RuntimeError(f"{way.name}: {told['errors']} of {told['done']} requests failed")
        programs = by_program(processes, later)
        programs["wrk"] = after[os.getpid()].children_s - before[os.getpid()].children_s
        return Load(
            told["done"],
            told["wall_us"] / 1e6,
            used.busy_s - foreign_s,
            {key: told[key] for key in ("p50", "p90", "p99", "p99.9")},
            disturbed=(foreign_s + used.stolen_s) / (used.busy_s + used.stolen_s),
            programs=programs,
        )

    def checked(self, way: Way, extra: tuple[str, ...]) -> Load:
        """Load a way, and see that packets went as its name says: to all servers, and forwarded where they must be."""
        received = {node: _received(way.cluster, node) for node in SERVERS}
        before = _forwarded(way) if way.service else 0
        load = self.load(way, extra)
        shares = {node: _received(way.cluster, node) - received[node] for node in SERVERS}
        if min(shares.values()) < sum(shares.values()) / 20:
            raise RuntimeError(f"{way.name}: not all servers were used: {shares}")
        if not way.service:
            return load
        forwards = _forwarded(way) - before
        if forwards < load.done / 2:
            raise RuntimeError(f"{way.name}: {load.done} requests, but {forwards} packets forwarded")
        return replace(load, forwards=forwards)


def _received(cluster: Cluster, node: str) -> int:
    statistics = cluster.lab.root(node) / "sys/class/net/eth1/statistics/rx_packets"
    return int(statistics.read_text())


def _forwarded(way: Way) -> int:
    total = 0
    for node in SERVERS:
        services = way.cluster.request(node, "GET", "/status")["services"]
        total += next(service["counters"]["forward_first"] for service in services if service["name"] == way.service)
    return total


def ways_through(plain: Cluster, anylb: Cluster) -> list[Way]:
    """List what is compared. `xdp only` is direct ECMP to servers whose XDP program passes it: XDP's own cost."""
    lab = anylb.lab
    for node in SERVERS:
        lab.exec(node, ["ip", "address", "add", f"{OTHER_VIP}/32", "dev", "lo"])
    hops = [word for node in SERVERS for word in ("nexthop", "via", anylb.addresses[node])]
    lab.exec("router", ["ip", "route", "add", f"{OTHER_VIP}/32", *hops])
    return [
        Way(figures.DIRECT, plain, f"http://{VIP}/"),
        Way("xdp only", anylb, f"http://{OTHER_VIP}/"),
        Way("anylb l2", anylb, f"http://{VIP}/", service=SERVICE),
        *(Way(f"anylb {name}", anylb, f"http://{vip}/", service=name) for name, vip in TUNNEL_VIPS.items()),
        Way("haproxy tcp", plain, f"http://{PROXY_VIP}/"),
        Way("nginx stream", plain, f"http://{PROXY_VIP}:8080/"),
    ]


def measure(rounds: int) -> list[dict[str, Any]]:
    """Bring the labs up, load all ways in turn, and return bench.json's `system`.

    On a machine that others use as well there are up to PATIENCE times as many rounds, and the least disturbed count.
    """
    pid = os.getpid()
    taken: dict[str, list[Round]] = {kind: [] for kind in LOADS}
    with plain_lab(f"bench-plain-{pid}") as plain, anylb_lab(f"bench-anylb-{pid}") as anylb:
        ways = ways_through(plain, anylb)
        bench = Bench(ways)
        for number in range(PATIENCE * rounds):
            if all(len(figures.quiet(taken[kind])) >= rounds for kind in LOADS):
                break
            for kind, extra in LOADS.items():
                # Each round begins with another one: none has always the same before it.
                order = ways[number % len(ways) :] + ways[: number % len(ways)]
                taken[kind].append(Round({way.name: bench.checked(way, extra) for way in order}))
                print(f"  round {number + 1}, {kind}: {taken[kind][-1].told()}", file=sys.stderr)
    used = {kind: figures.least_disturbed(taken[kind], rounds) for kind in LOADS}
    names = [way.name for way in ways]
    rows = figures.system_rows(*({name: [one.loads[name] for one in used[kind]] for name in names} for kind in LOADS))
    for row in rows:
        for kind in LOADS:
            row |= explained(kind, [one.loads[row["path"]] for one in used[kind]])
    return rows


def explained(kind: str, loads: Sequence[Load]) -> dict[str, Any]:
    """What one request or connection took: CPU time in us by the program charged for it, forwards, and disturbance.

    The kernel charges the network's work to whatever program it interrupts.
    """
    done = sum(load.done for load in loads)
    total = {name: sum(load.programs.get(name, 0.0) for load in loads) for name in PROGRAMS}
    row: dict[str, Any] = {
        f"{kind}_cpu_us_by_program": {name: round(1e6 * used / done, 1) for name, used in total.items() if used},
        f"{kind}_disturbed": round(max(load.disturbed for load in loads), 2),
    }
    if forwards := sum(load.forwards for load in loads):
        row[f"{kind}_forwards"] = round(forwards / done, 2)
    return row


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
