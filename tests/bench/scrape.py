# SPDX-License-Identifier: Apache-2.0
"""Part 10, monitoring: what a scrape of a node with 50 services costs its agent, and a question for its overview.

In the bench's lab one server gets more services by a reload: more ports of one VIP. Its agent's CPU time is read before
and after many scrapes; what it uses at rest in as much time is subtracted. Prints JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench import figures
from bench.cluster import FOLDER, anylb_lab

from topology.demo.cluster import VIP, Cluster

NODE: Final = "b4"
SERVICES: Final = 50
SCRAPES: Final = 20
CONFIG: Final = "/run/anylb-lb.yml"
LISTEN: Final = f"""
import signal, socket
servers = [socket.create_server(("{VIP}", port)) for port in range(9000, 9000 + {SERVICES})]
signal.pause()
"""
SCRAPE: Final = f"""
import urllib.request
for _ in range({SCRAPES}):
    with urllib.request.urlopen("http://127.0.0.1:9742/metrics", timeout=10) as response:
        text = response.read()
print(len(text), text.count(b"\\n"))
"""


def add_services(cluster: Cluster) -> None:
    """Have the node serve `SERVICES`."""
    text = (FOLDER / "lb.yml").read_text()
    health = "health: {type: tcp, port: 80, interval_s: 5}"
    before = len(cluster.request(NODE, "GET", "/status")["services"])
    more = [
        f"  - {{name: s{port}, vip: {VIP}, protocol: tcp, port: {port}, forward: l2, {health}}}\n"
        for port in range(9000, 9000 + SERVICES - before)
    ]
    cluster.lab.root(NODE).joinpath(CONFIG[1:]).write_text(text.replace("\nbgp:\n", f"{''.join(more)}\nbgp:\n", 1))
    cluster.lab.spawn(NODE, ["python", "-c", LISTEN], log=cluster.lab.root(NODE) / "var/log/anylb/listen.log")
    cluster.lab.exec(NODE, ["mount", "--bind", CONFIG, "/etc/anylb/lb.yml"])
    cluster.lab.exec(NODE, ["lbctl", "reload"])
    cluster.wait(f"{SERVICES} services", lambda: serves_all(cluster), 60.0)


def serves_all(cluster: Cluster) -> bool:
    """Return whether all services are healthy and have rows."""
    services = cluster.request(NODE, "GET", "/status")["services"]
    return len(services) == SERVICES and all(one["healthy"] and one["digest"] for one in services)


def agent_cpu_s(cluster: Cluster) -> float:
    """Return the CPU seconds of the node's agent so far."""
    (pid,) = cluster.pids(NODE, "agent")
    return figures.ProcessCpu.read(Path(f"/proc/{pid}/stat").read_text()).own_s


def cost_ms(cluster: Cluster, work: Callable[[], Any]) -> float:
    """Return the CPU time of the node's agent for one of `SCRAPES` pieces of work, without what it uses at rest."""
    used, began = agent_cpu_s(cluster), time.monotonic()
    work()
    used, took = agent_cpu_s(cluster) - used, time.monotonic() - began
    at_rest = agent_cpu_s(cluster)
    time.sleep(took)
    return (used - (agent_cpu_s(cluster) - at_rest)) * 1e3 / SCRAPES


def measure(rounds: int) -> dict[str, Any]:
    """Return bench.json's `scrape`."""
    scrapes, overviews = list[float](), list[float]()
    with anylb_lab(f"bench-scrape-{os.getpid()}") as cluster:
        add_services(cluster)

        def ask() -> None:
            for _ in range(SCRAPES):
                cluster.request("b1", "GET", "/cluster")
                time.sleep(0.5)  # a node looks at itself no more often

        size, lines = map(int, cluster.lab.exec(NODE, ["python", "-c", SCRAPE]).stdout.split())
        for _ in range(rounds):
            scrapes.append(cost_ms(cluster, lambda: cluster.lab.exec(NODE, ["python", "-c", SCRAPE])))
            overviews.append(cost_ms(cluster, ask))
    return {
        "services": SERVICES,
        "bytes": size,
        "lines": lines,
        "scrape_cpu_ms": figures.min_median(scrapes, 1),
        "overview_cpu_ms": figures.min_median(overviews, 1),
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
