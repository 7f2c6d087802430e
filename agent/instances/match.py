# SPDX-License-Identifier: Apache-2.0
"""Which processes are instances of a service, and what these are called. Pure; processes.py reads /proc."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from agent.config.instances import MatchConfig

DELETED = " (deleted)"
"""What the kernel appends to the path of a file that was replaced, as an upgrade does."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process, as far as a match needs it."""

    pid: int
    parent: int
    start: int
    """Clock ticks since boot: with the pid it names a process for good."""
    executable: str = ""
    cgroups: tuple[str, ...] = ()
    """Its paths in the hierarchies that systemd keeps."""


class ProcessId(NamedTuple):
    """A process that no later one with its number is mistaken for."""

    pid: int
    start: int


class Added(NamedTuple):
    """An instance that the operator added by its process."""

    name: str
    process: ProcessId


@dataclass(frozen=True, slots=True)
class Found:
    """An instance that was found: its place in the order, and its processes."""

    place: int
    """The number of its match; those added by the operator follow."""
    name: str
    """Empty for one that is known by its executable: `name_numbered` gives it a name once it is seen to listen."""
    processes: tuple[Process, ...]
    """The first is the one that it was found by."""
    weight: int = 100
    executable: str = ""

    @property
    def pids(self) -> tuple[int, ...]:
        """The numbers of its processes."""
        return tuple(process.pid for process in self.processes)

    @property
    def id(self) -> ProcessId:
        """The process that it was found by."""
        return ProcessId(self.processes[0].pid, self.processes[0].start)


def find(
    matches: Sequence[MatchConfig],
    pidfiles: Mapping[Path, int],
    added: Iterable[Added],
    processes: Mapping[int, Process],
) -> list[Found]:
    """Return the instances among these processes, in order. A process belongs to the first match that has it.

    `pidfiles` has the number in each pidfile that could be read.
    """
    taken: set[int] = set()
    children = _children(processes)
    found: list[Found] = []
    for place, match in enumerate(matches):
        groups = _groups(match, pidfiles, processes)
        for name, pids in groups:
            # Of an executable each process is one: a child that inherited a listener comes after its parent.
            all_pids = pids if match.executable else _with_descendants(pids, children)
            members = [pid for pid in all_pids if pid not in taken]
            if members:
                taken.update(members)
                weight = 100 if match.weight is None else match.weight
                executable = match.executable.name if match.executable else ""
                found.append(Found(place, name, tuple(processes[pid] for pid in members), weight, executable))
    for i, (name, known) in enumerate(added):
        process = processes.get(known.pid)
        if process is not None and process.start == known.start and known.pid not in taken:
            members = [pid for pid in _with_descendants([known.pid], children) if pid not in taken]
            taken.update(members)
            found.append(Found(len(matches) + i, name, tuple(processes[pid] for pid in members)))
    return found


def _groups(
    match: MatchConfig, pidfiles: Mapping[Path, int], processes: Mapping[int, Process]
) -> list[tuple[str, list[int]]]:
    """Return the names of a match's instances, in order, and the processes that each is found by, oldest first."""
    if match.pidfile is not None:
        pid = pidfiles.get(match.pidfile)
        return [(match.pidfile.stem, [pid])] if pid is not None and pid in processes else []
    oldest_first = sorted(processes.values(), key=lambda process: (process.start, process.pid))
    if match.executable is not None:
        path = str(match.executable)
        return [("", [one.pid]) for one in oldest_first if one.executable.removesuffix(DELETED) == path]
    named: dict[str, list[int]] = {}
    for process in oldest_first:
        if name := _control_group(match, process):
            named.setdefault(name, []).append(process.pid)
    return sorted(named.items())


def _control_group(match: MatchConfig, process: Process) -> str:
    """Return the name of the unit or control group that a process is in, if the match has it."""
    for path in process.cgroups:
        parts = path.split("/")
        for i in range(len(parts), 1, -1):
            if match.unit is not None and fnmatchcase(parts[i - 1], match.unit):
                return parts[i - 1]
            if match.cgroup is not None and fnmatchcase("/".join(parts[:i]), match.cgroup):
                return parts[i - 1]
    return ""


def _children(processes: Mapping[int, Process]) -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    return children


def _with_descendants(pids: Iterable[int], children: Mapping[int, Sequence[int]]) -> list[int]:
    """Return processes, then their children, and so on, each once."""
    found = dict.fromkeys(pids)
    queue = list(found)
    while queue:
        for child in children.get(queue.pop(0), ()):
            if child not in found:
                found[child] = None
                queue.append(child)
    return list(found)


def name_numbered(found: Sequence[Found], before: Mapping[str, ProcessId]) -> dict[ProcessId, str]:
    """Return names for instances known by their executable, as `nginx-1`; `before` has those given so far.

    One that is there keeps its name; a new one gets the lowest number that is free. So the primary that is started
    again is the primary again.
    """
    names = {process: name for name, process in before.items()}
    kept = {one.id: names[one.id] for one in found if one.id in names}
    taken = set(kept.values())
    for one in found:
        if one.id not in kept:
            free = next(name for n in itertools.count(1) if (name := f"{one.executable}-{n}") not in taken)
            kept[one.id] = free
            taken.add(free)
    return kept
