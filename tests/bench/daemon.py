# SPDX-License-Identifier: Apache-2.0
"""Part 4, the daemon: the time from an agent's start until it is ready, and the memory of all daemons. Prints JSON.

In the bench's lab the agent of one server is stopped and started again: with its programs pinned in the kernel (as
after a crash), with its compiled programs on disk alone (as after a reboot), and with neither (as after an upgrade).
The data path handles packets meanwhile.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from bench import figures, testrun
from bench.cluster import anylb_lab

from bpf.kernel import bpf_map
from bpf.kernel.pin import open_pin
from bpf.layout.limits import CHAIN
from bpf.layout.map_spec import map_specs
from bpf.maps.maps import Maps
from topology.demo.cluster import Cluster
from topology.errors import LabError

NODE: Final = "b4"
ROWS: Final = 65_536
READY_S: Final = 30.0
PINNED: Final = ("sys/fs/bpf/anylb/program*", "sys/fs/bpf/anylb/egress_*")
KEPT: Final = ("var/cache/anylb/lb_*", "var/cache/anylb/egress_*")
STARTS: Final = {"compiled": (), "kept on disk": PINNED, "not compiled": PINNED + KEPT}
"""The files to remove before each kind of start."""


def start_s(cluster: Cluster, removed: Sequence[str]) -> tuple[float, float]:
    """Stop the agent, start it, and return the seconds until it reports that it is ready, and its CPU seconds."""
    cluster.stop(NODE, "agent")
    for pattern in removed:
        programs = list(cluster.lab.root(NODE).glob(pattern))
        assert programs, f"{pattern} on {NODE} matches no program: was it renamed?"
        for program in programs:
            program.unlink()
    began = time.monotonic()
    cluster.start(NODE, "agent")
    cluster.wait(f"the agent of {NODE}", lambda: ready(cluster), READY_S)
    took = time.monotonic() - began
    (pid,) = cluster.pids(NODE, "agent")
    return took, figures.ProcessCpu.read(Path(f"/proc/{pid}/stat").read_text()).all_s


def ready(cluster: Cluster) -> bool:
    """Return whether the node's agent reports that it is ready."""
    try:
        return bool(cluster.request(NODE, "GET", "/status")["ready"])
    except LabError:
        return False


def process_mb(pid: int) -> dict[str, float]:
    """Return the memory of a process: resident (Rss), and with shared pages divided among their users (Pss)."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return {name: round(int(fields[name].split()[0]) / 1024, 1) for name in ("Rss", "Pss")}


def compiler_mb() -> float:
    """Return the peak memory of the compiling child, in a namespace of its own."""
    code = (
        "import resource; from pathlib import Path\n"
        "from bench import testrun; from bpf.attach.datapath import DataPath\n"
        "testrun.isolate(); DataPath.open(Path('/sys/fs/bpf/x'), 'lo').close()\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return round(int(done.stdout) / 1024, 1)


def large_mb() -> float:
    """Return the resident memory of an agent with the maximum of members."""
    done = subprocess.run([sys.executable, "-m", "bench.large"], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def maps_mb() -> dict[str, float]:
    """Return the kernel's memory of the maps without services, and of each service."""
    testrun.isolate()
    folder = Path("/sys/fs/bpf/memory")
    folder.mkdir()
    maps = Maps.open(folder, ROWS)
    maps.tables.swap(1, np.zeros((ROWS, CHAIN), np.uint16), np.zeros(ROWS, np.uint64))
    fixed = service = 0.0
    for spec in map_specs(ROWS):
        fd = open_pin(folder / spec.name)
        assert fd is not None
        fixed += _locked_mb(fd)
        if spec.inner:
            number = bpf_map.lookup(fd, (1).to_bytes(4, "little"), 4)
            assert number
            service += _locked_mb(bpf_map.open_map(int.from_bytes(number, "little")))
    return {"maps_mb_without_services": round(fixed, 2), "maps_mb_for_each_service": round(service, 2)}


def _locked_mb(fd: int) -> float:
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("memlock:")) / 1e6


def measure(rounds: int) -> dict[str, Any]:
    """Return bench.json's `daemon`."""
    starts: dict[str, list[tuple[float, float]]] = {what: [] for what in STARTS}
    with anylb_lab(f"bench-daemon-{os.getpid()}") as cluster:
        for _ in range(rounds):
            for what, times in starts.items():
                times.append(start_s(cluster, STARTS[what]))
        memory = {daemon: process_mb(cluster.pids("b1", daemon)[0]) for daemon in ("agent", "speaker", "relay")}
    return {
        "start_to_ready_s": {what: figures.min_median([took for took, _ in times]) for what, times in starts.items()},
        "start_cpu_s": {what: figures.min_median([cpu for _, cpu in times]) for what, times in starts.items()},
        "memory_mb": {**memory, "compiler_peak": compiler_mb(), "agent_1023_members": large_mb(), **maps_mb()},
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
