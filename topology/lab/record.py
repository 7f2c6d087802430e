# SPDX-License-Identifier: Apache-2.0
"""What is known of labs between runs: records below /run/anylb-lab, and the inits that really live.

Owns: records, the lock, recognizing and killing our own inits. A process is taken for ours only if it is pid 1 of a
pid namespace, runs `topology.lab.init LAB NODE` and has the lab in its environment, and, where it was recorded, still
has the recorded start time: a reused pid or another program is never touched.
"""

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from topology.errors import LabError

STATE = Path("/run/anylb-lab")
LAB_VARIABLE = "ANYLB_LAB"
GONE_DEADLINE_S = 10.0


@dataclass(frozen=True)
class Process:
    """A process that cannot be mistaken for a later one with the same pid; `start` in clock ticks since boot."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """The process that has this pid now, None if there is none (or only its zombie)."""
        try:
            # proc_pid_stat(5): the name in parentheses may hold anything; state is field 3, start time field 22.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        """Whether it still runs; one that has let go of its namespaces already counts as gone."""
        if Process.of(self.pid) != self:
            return False
        try:
            os.readlink(f"/proc/{self.pid}/ns/net")
        except OSError:
            return False
        return True


@dataclass
class Record:
    """A lab's entry in /run/anylb-lab. `state` is `starting` until everything is there, then `up`."""

    name: str
    file: str
    state: str
    keep: bool
    owner: Process
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)  # pid, start, env, image, group, killed
    links: list[list[str]] = field(default_factory=list)  # node, interface, node, interface
    flapped: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # "node:interface" → what to add again

    def save(self) -> None:
        """Write it (aside, then renamed in, so that a kill -9 never leaves half of it)."""
        directory = STATE / self.name
        directory.mkdir(parents=True, exist_ok=True)
        aside = directory / "lab.json.new"
        aside.write_text(json.dumps(asdict(self)))
        aside.rename(directory / "lab.json")

    @classmethod
    def load(cls, name: str) -> "Record | None":
        """The record of a lab, None if there is none that can be read."""
        try:
            data = json.loads((STATE / name / "lab.json").read_text())
            return cls(**{**data, "owner": Process(**data["owner"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def init_of(self, node: str) -> Process:
        """The recorded init of a node."""
        return Process(self.nodes[node]["pid"], self.nodes[node]["start"])

    @property
    def whole(self) -> bool:
        """Up, with every node alive that was not killed on purpose."""
        return self.state == "up" and all(self.init_of(n).alive for n, d in self.nodes.items() if not d["killed"])

    @property
    def stale(self) -> bool:
        """Left behind: never finished, its owner dead though it was to die with it, or nothing of it alive."""
        if self.state != "up" or (not self.keep and not self.owner.alive):
            return True
        return not any(self.init_of(node).alive for node in self.nodes)


@contextmanager
def lock(name: str) -> Iterator[None]:
    """One process at a time works on a lab. An abstract socket: the kernel drops it with its holder, no file stays."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.bind(f"\0anylb-lab/{name}")
        except OSError:
            raise LabError(f"lab {name}: another process brings it up or down right now; try again") from None
        yield


def names() -> list[str]:
    """Labs that have a record, readable or not."""
    try:
        return sorted(entry.name for entry in STATE.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return []


def inits() -> Iterator[tuple[str, str, Process]]:
    """Every living init of ours on this machine: lab, node, process. Not those of labs inside nodes or containers."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            argv = Path("/proc", entry, "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            if len(argv) < 3 or argv[-3] != "topology.lab.init":
                continue
            environ = Path("/proc", entry, "environ").read_bytes().split(b"\0")
            status = Path("/proc", entry, "status").read_text()
        except OSError:
            continue
        lab, node = argv[-2:]
        pids = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
        process = Process.of(int(entry))
        if process and f"{LAB_VARIABLE}={lab}".encode() in environ and pids[1:] == ["1"]:
            yield lab, node, process


def kill(processes: list[Process]) -> None:
    """SIGKILL inits and wait until they and all in their nodes are gone. Raises LabError if that takes too long."""
    namespaces = set()
    for process in processes:
        with suppress(OSError):
            if process.alive:
                namespaces.add(os.stat(f"/proc/{process.pid}/ns/pid").st_ino)
                os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + GONE_DEADLINE_S
    while left := _living_in(namespaces):
        if time.monotonic() > deadline:
            raise LabError(f"processes {left} do not die; a program may be stuck in the kernel")
        time.sleep(0.005)


def _living_in(namespaces: set[int]) -> list[int]:
    """Processes in pid namespaces. An init lets go of its own namespaces first and then waits for the others, for ever
    if one is a zombie whose parent is outside and sleeps; both count as gone."""
    if not namespaces:
        return []
    living = []
    for entry in os.listdir("/proc"):
        with suppress(OSError):
            if entry.isdigit() and os.stat(f"/proc/{entry}/ns/pid").st_ino in namespaces:
                process = Process.of(int(entry))
                if process is not None and process.alive:
                    living.append(process.pid)
    return living


def remove(name: str) -> bool:
    """Kill all inits of a lab and forget it; whether there was anything. The caller holds its lock."""
    mine = [process for lab, _, process in inits() if lab == name]
    kill(mine)
    directory = STATE / name
    known = directory.exists()
    shutil.rmtree(directory, ignore_errors=True)
    with suppress(OSError):
        STATE.rmdir()
    return bool(mine) or known


def remove_stale() -> list[str]:
    """Remove what killed runs left; the names of those labs. A lab that is up, or being made, is not touched."""
    removed = []
    for name in sorted({*names(), *(lab for lab, _, _ in inits())}):
        try:
            with lock(name):
                record = Record.load(name)
                if (record is None or record.stale) and remove(name):
                    removed.append(name)
        except LabError:
            continue  # someone is at work on it
    return removed
