# SPDX-License-Identifier: Apache-2.0
"""From the answer to `lbctl drain` until the data paths of all other nodes use the rows without it. A real lab.

Six nodes with four services behind BIRD. The kernel is asked: a node has the change when the map of its rows is another
one, which programs see at once. Asking the agents instead would cost the CPU time that is measured.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from support.cluster_lab import ClusterLab, cluster_lab, copy_topology
from support.waiting import wait_for

from bpf.kernel import bpf_map
from bpf.kernel.pin import open_pin

NODES = tuple(f"b{number}" for number in range(1, 7))
DRAINED = "b2"
SERVICES = 4
SETTLE_S = 12
"""A row that has changed is in grace for 10 s, and the agents' starts are over."""
PAUSE_S = 2.0
LIMIT_S = 5.0
SERVICE = """
  - {{name: echo{n}, vip: 10.99.0.1, protocol: tcp, port: {port}, forward: l2, health: {{type: tcp, port: 7000}}}}
"""


class RowMaps:
    """The outer maps of the nodes' rows, as their kernels have them."""

    def __init__(self, cluster: ClusterLab, stack: ExitStack) -> None:
        self._fds: dict[str, int] = {}
        for node in NODES:
            pins = cluster.lab.root(node) / "sys/fs/bpf/anylb"
            fd = open_pin(next(pins.glob("**/maps_*")) / "rows")
            assert fd is not None
            stack.callback(os.close, fd)
            self._fds[node] = fd

    def tables(self, node: str) -> list[bytes | None]:
        """Return the number of the map that each service's rows are in."""
        slots = range(1, SERVICES + 1)
        return [bpf_map.lookup(self._fds[node], slot.to_bytes(4, "little"), 4) for slot in slots]


def changed_ms(cluster: ClusterLab, maps: RowMaps, path: str) -> float:
    """Send a request to the node, and return after which time, in ms, the last of the others has all its new rows."""
    others = [node for node in NODES if node != DRAINED]
    before = {node: maps.tables(node) for node in others}
    cluster.request(DRAINED, "POST", path)
    start = time.perf_counter()
    missing = set(others)
    while missing:
        for node in sorted(missing):
            if all(new != old for new, old in zip(maps.tables(node), before[node], strict=True)):
                missing.remove(node)
        if time.perf_counter() - start > LIMIT_S:
            raise TimeoutError(f"not within {LIMIT_S:g} s: new rows on {', '.join(sorted(missing))}")
        time.sleep(0.0005)
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    """Print the figures of some drains, and of their ends."""
    rounds = int(sys.argv[1])
    with ExitStack() as stack:
        topology = copy_topology(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anylb-drain-"))))
        topology.parent.chmod(0o755)
        config = topology / "lb.yml"
        further = {n: 7000 + n for n in range(1, SERVICES)}
        more = "".join(SERVICE.format(n=n, port=port) for n, port in further.items()).replace("\n\n", "\n")
        config.write_text(config.read_text().replace("\nbgp:", f"{more}\nbgp:"))
        cluster = stack.enter_context(cluster_lab("bench-drain", topology / "segment.clab.yml"))
        for node in ("b5", "b6"):
            cluster.start(node, "speaker", "agent")
        for node in NODES:
            for port in further.values():  # a service needs a socket
                cluster.lab.spawn(node, ["python", "-m", "topology.traffic.server", "--port", str(port)])
        wait_for(lambda: cluster.tables_agree(NODES, NODES), "six nodes with equal tables")
        time.sleep(SETTLE_S)
        maps = RowMaps(cluster, stack)
        took = []
        for _ in range(rounds):
            for path in ("/drain", "/undrain"):
                took.append(changed_ms(cluster, maps, path))
                time.sleep(PAUSE_S)
    figures = {"median": statistics.median(took), "min": min(took), "max": max(took)}
    print(
        json.dumps({"nodes": len(NODES), "services": SERVICES} | {f"{k}_ms": round(v, 1) for k, v in figures.items()})
    )


if __name__ == "__main__":
    main()
