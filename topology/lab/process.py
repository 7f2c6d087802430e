# SPDX-License-Identifier: Apache-2.0
"""Processes of this machine: their identity beyond the pid, the inits of all labs, and how to kill those.

A process counts as one of our inits only if it is pid 1 of a pid namespace, runs `topology.lab.init LAB NODE` and has
the lab in its environment. Where its start time was recorded, that must match too: a reused pid or another program is
never touched. Does not own: what is recorded of a lab (record.py).
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from topology.errors import LabError

LAB_VARIABLE = "ANYLB_LAB"
INIT_MODULE = "topology.lab.init"
EXIT_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class ProcessRef:
    """A process, distinct from a later one with the same pid; `start` in clock ticks since boot."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> "ProcessRef | None":
        """Return the process that has this pid now, None if there is none (or only its zombie)."""
        try:
            # proc_pid_stat(5): the name in parentheses may hold anything; state is field 3, start time field 22.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        """Whether it still runs; one that has released its namespaces already counts as gone."""
        if ProcessRef.of(self.pid) != self:
            return False
        try:
            os.readlink(f"/proc/{self.pid}/ns/net")
        except OSError:
            return False
        return True


def find_inits() -> Iterator[tuple[str, str, ProcessRef]]:
    """Yield (lab, node, process) of every running init on this machine, except in labs inside nodes or containers."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            argv = Path("/proc", entry, "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            if len(argv) < 3 or argv[-3] != INIT_MODULE:
                continue
            environ = Path("/proc", entry, "environ").read_bytes().split(b"\0")
            status = Path("/proc", entry, "status").read_text()
        except OSError:
            continue
        lab, node = argv[-2:]
        pids = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
        process = ProcessRef.of(int(entry))
        if process and f"{LAB_VARIABLE}={lab}".encode() in environ and pids[1:] == ["1"]:
            yield lab, node, process


def kill_inits(inits: list[ProcessRef]) -> None:
    """SIGKILL inits and wait until they and all in their nodes are gone. Raises LabError if that takes too long."""
    namespaces = set()
    for init in inits:
        with suppress(OSError):
            if init.alive:
                namespaces.add(os.stat(f"/proc/{init.pid}/ns/pid").st_ino)
                os.kill(init.pid, signal.SIGKILL)
    deadline = time.monotonic() + EXIT_TIMEOUT_S
    while remaining := _processes_in(namespaces):
        if time.monotonic() > deadline:
            raise LabError(f"processes {remaining} do not die; a program may be stuck in the kernel")
        time.sleep(0.005)


def _processes_in(pid_namespaces: set[int]) -> list[int]:
    """Return the pids of running processes in pid namespaces.

    An init releases its own namespaces first and then waits for the others, without end if one is a zombie whose
    parent is outside and sleeps; both count as gone.
    """
    if not pid_namespaces:
        return []
    found = []
    for entry in os.listdir("/proc"):
        with suppress(OSError):
            if entry.isdigit() and os.stat(f"/proc/{entry}/ns/pid").st_ino in pid_namespaces:
                process = ProcessRef.of(int(entry))
                if process is not None and process.alive:
                    found.append(process.pid)
    return found
