# SPDX-License-Identifier: Apache-2.0
"""Part 3: the whole system. HTTP over the lab, direct by ECMP, through anylb, and through a proxy.

Requests on open connections, and connections of one request each, by wrk, on each path in turn, round after round.
CPU time is that of the whole machine without foreign processes. Prints JSON.
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
from bench.cluster import FOLDER, NAT_VIP, PROXY_VIP, SERVERS, TUNNEL_VIPS, anylb_lab, plain_lab
from bench.figures import Cpu, Load, ProcessCpu, Round

from topology.demo.agent_client import SERVICE
from topology.demo.cluster import VIP, Cluster

OTHER_VIP: Final = "10.99.0.9"
"""Not a service."""
PROGRAMS: Final = ("wrk", "nginx", "haproxy", "ksoftirqd", "lbctl", "exabgp", "bird")
MAX_ROUNDS_FACTOR: Final = 3
SECONDS: Final = 2
CONNECTIONS: Final = 64
LOADS: Final = {"requests": (), "connections": ("-H", "Connection: close")}
"""The unit that is counted, and wrk's options for it."""


@dataclass(frozen=True)
class LoadPath:
    """A path from the client to the servers."""

    name: str
    cluster: Cluster
    url: str
    service: str = ""
    """The service whose packets servers forward; empty if none."""


def snapshot() -> dict[int, str]:
    """Return the text of /proc/PID/stat of all processes."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                found[int(entry.name)] = (entry / "stat").read_text(errors="replace")
    return found


def by_program(before: Mapping[int, str], after: Mapping[int, str]) -> dict[str, float]:
    """Return the CPU seconds of each program between two snapshots, without its ended children."""
    used: dict[str, float] = defaultdict(float)
    for pid, text in after.items():
        name = text[text.index("(") + 1 : text.rindex(")")].split("/")[0]
        used[name] += ProcessCpu.read(text).own_s - (ProcessCpu.read(before[pid]).own_s if pid in before else 0.0)
    return used


class Loader:
    """The load on the labs that are up, and which of the machine's processes are ours."""

    def __init__(self, paths: list[LoadPath]) -> None:
        self._roots = {os.getpid()}
        for path in paths:
            self._roots |= {node.pid for node in path.cluster.lab.nodes.values()}

    def load(self, path: LoadPath, extra: tuple[str, ...]) -> Load:
        """Load a path for SECONDS."""
        lab = path.cluster.lab
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-s", str(FOLDER / "report.lua"), *extra]
        processes, cpu = snapshot(), Cpu.read(Path("/proc/stat").read_text())
        done = lab.exec("client", [*command, path.url])
        used = Cpu.read(Path("/proc/stat").read_text()).since(cpu)
        later = snapshot()
        before, after = ({pid: ProcessCpu.read(text) for pid, text in taken.items()} for taken in (processes, later))
        foreign_s = figures.foreign_s(before, after, self._roots)
        result = json.loads(done.stdout.splitlines()[-1])
        if result["errors"] > result["done"] / 1000:
            raise RuntimeError(f"{path.name}: {result['errors']} of {result['done']} requests failed")
        programs = by_program(processes, later)
        programs["wrk"] = after[os.getpid()].children_s - before[os.getpid()].children_s
        return Load(
            result["done"],
            result["wall_us"] / 1e6,
            used.busy_s - foreign_s,
            {key: result[key] for key in ("p50", "p90", "p99", "p99.9")},
            disturbed=(foreign_s + used.stolen_s) / (used.busy_s + used.stolen_s),
            programs=programs,
        )

    def checked(self, path: LoadPath, extra: tuple[str, ...]) -> Load:
        """Load a path, and check that packets reached all servers and were forwarded according to its name."""
        received = {node: _received(path.cluster, node) for node in SERVERS}
        before = _forwarded(path) if path.service else 0
        load = self.load(path, extra)
        shares = {node: _received(path.cluster, node) - received[node] for node in SERVERS}
        if min(shares.values()) < sum(shares.values()) / 20:
            raise RuntimeError(f"{path.name}: not all servers were used: {shares}")
        if not path.service:
            return load
        forwards = _forwarded(path) - before
        if forwards < load.done / 2:
            raise RuntimeError(f"{path.name}: {load.done} requests, but {forwards} packets forwarded")
        return replace(load, forwards=forwards)


def _received(cluster: Cluster, node: str) -> int:
    statistics = cluster.lab.root(node) / "sys/class/net/eth1/statistics/rx_packets"
    return int(statistics.read_text())


def _forwarded(path: LoadPath) -> int:
    total = 0
    for node in SERVERS:
        services = path.cluster.request(node, "GET", "/status")["services"]
        total += next(service["counters"]["forward_first"] for service in services if service["name"] == path.service)
    return total


def load_paths(plain: Cluster, anylb: Cluster) -> list[LoadPath]:
    """Return the paths to compare. `xdp only` is direct ECMP to servers whose XDP program passes it: XDP's own cost."""
    lab = anylb.lab
    for node in SERVERS:
        lab.exec(node, ["ip", "address", "add", f"{OTHER_VIP}/32", "dev", "lo"])
    hops = [word for node in SERVERS for word in ("nexthop", "via", anylb.addresses[node])]
    lab.exec("router", ["ip", "route", "add", f"{OTHER_VIP}/32", *hops])
    return [
        LoadPath(figures.DIRECT, plain, f"http://{VIP}/"),
        LoadPath("xdp only", anylb, f"http://{OTHER_VIP}/"),
        LoadPath("anylb l2", anylb, f"http://{VIP}/", service=SERVICE),
        *(LoadPath(f"anylb {name}", anylb, f"http://{vip}/", service=name) for name, vip in TUNNEL_VIPS.items()),
        LoadPath("anylb nat", plain, f"http://{NAT_VIP}/"),
        LoadPath("haproxy tcp", plain, f"http://{PROXY_VIP}/"),
        LoadPath("nginx stream", plain, f"http://{PROXY_VIP}:8080/"),
    ]


def measure(rounds: int) -> list[dict[str, Any]]:
    """Bring the labs up, load all paths in turn, and return bench.json's `system`.

    On a shared machine there are up to MAX_ROUNDS_FACTOR times as many rounds, and the least disturbed count.
    """
    pid = os.getpid()
    taken: dict[str, list[Round]] = {kind: [] for kind in LOADS}
    with plain_lab(f"bench-plain-{pid}") as plain, anylb_lab(f"bench-anylb-{pid}") as anylb:
        paths = load_paths(plain, anylb)
        loader = Loader(paths)
        for number in range(MAX_ROUNDS_FACTOR * rounds):
            if all(len(figures.quiet(taken[kind])) >= rounds for kind in LOADS):
                break
            for kind, extra in LOADS.items():
                # Each round begins with another path, so that none always follows the same one.
                order = paths[number % len(paths) :] + paths[: number % len(paths)]
                taken[kind].append(Round({path.name: loader.checked(path, extra) for path in order}))
                print(f"  round {number + 1}, {kind}: {taken[kind][-1].summary()}", file=sys.stderr)
    used = {kind: figures.least_disturbed(taken[kind], rounds) for kind in LOADS}
    names = [path.name for path in paths]
    rows = figures.system_rows(*({name: [one.loads[name] for one in used[kind]] for name in names} for kind in LOADS))
    for row in rows:
        for kind in LOADS:
            row |= breakdown(kind, [one.loads[row["path"]] for one in used[kind]])
    return rows


def breakdown(kind: str, loads: Sequence[Load]) -> dict[str, Any]:
    """Return the cost of one request or connection: CPU time in us by charged program, forwards, and disturbance.

    The kernel charges the network's work to the program that it interrupts.
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
