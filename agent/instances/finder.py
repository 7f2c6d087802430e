# SPDX-License-Identifier: Apache-2.0
"""Instances as they are found now: the processes of each match, and which of these has which listener. I/O only."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from agent.config.instances import MatchConfig
from agent.instances import processes as proc
from agent.instances.match import Added, Found, ProcessId, find
from agent.model import Listener
from agent.problem import Problem, ProblemLine

_RIGHT = "the agent needs CAP_SYS_PTRACE: install the drop-in instances.conf (docs/instances.md)"
NO_EXECUTABLES = Problem(
    "the files that processes run cannot be seen",
    _RIGHT,
    "`match: {executable: ...}` compares /proc/PID/exe, which only this capability may read.",
)
OTHER_NAMESPACE = Problem(
    "process {pid} ({name}) is in another network namespace, where the VIP is not",
    "start it in the node's",
    "In a container: with the host's network. It gets no connections.",
)
NO_SOCKETS = Problem(
    "the sockets of process {pid} cannot be seen: {error}",
    _RIGHT,
    "The process belongs to an instance, and whether it listens is not known. The kernel chooses among listeners.",
)
PIDFILE_UNREADABLE = Problem(
    "{path}: {error}",
    "give the agent's user the right to read it",
    "The instance with this pidfile is not found, and gets no new connections.",
)
PIDFILE_EMPTY = Problem(
    "{path}: has no process number in its first line",
    "give the file that its server writes",
    "As above. A server that is starting may not have written it yet.",
)


class Place(NamedTuple):
    """Where a listener is."""

    found: Found
    pid: int
    fd: int | None
    """None: only the process knows, which has handed the listener over."""


def find_instances(matches: Sequence[MatchConfig], added: Iterable[Added], problems: list[ProblemLine]) -> list[Found]:
    """Return the instances of all matches, and those that were added, in order; what is in the way is a problem."""
    by_executable = any(match.executable for match in matches)
    processes = proc.processes(by_executable, any(match.unit or match.cgroup for match in matches))
    if by_executable and not proc.may_read_executables():
        problems.append(NO_EXECUTABLES.line())
    pidfiles = _read_pidfiles((match.pidfile for match in matches if match.pidfile), problems)
    return find(matches, pidfiles, added, processes)


def in_this_namespace(found: Sequence[Found], problems: list[ProblemLine]) -> list[Found]:
    """Return the instances that are in this network namespace; that another is not is a problem."""
    here = [one for one in found if proc.is_here(one.id.pid)]
    places = {one.place for one in here}
    for one in found:
        # Of an executable some may well run in containers.
        if one not in here and (one.name or one.place not in places):
            problems.append(OTHER_NAMESPACE.line(pid=one.id.pid, name=one.name or one.executable))
    return here


def places_of(
    found: Iterable[Found], own: Mapping[int, Listener], handed: Mapping[int, ProcessId], problems: list[ProblemLine]
) -> dict[int, Place]:
    """Return where each listener is, by inode. `handed`: which process handed a listener over, by cookie."""
    places: dict[int, Place] = {}
    givers: dict[ProcessId, list[int]] = {}
    for inode, listener in own.items():
        if listener.cookie in handed:
            givers.setdefault(handed[listener.cookie], []).append(inode)
    for one in found:
        for process in one.processes:
            given = givers.get(ProcessId(process.pid, process.start), ())
            places |= {inode: Place(one, process.pid, None) for inode in given}
            wanted = own.keys() - places.keys()
            if not wanted:
                return places
            try:
                for inode, fd in proc.sockets(process.pid, wanted).items():
                    places[inode] = Place(one, process.pid, fd)
            except PermissionError as error:
                if not given:
                    problems.append(NO_SOCKETS.line(pid=process.pid, error=error.strerror))
    return places


def listeners_of_systemd(inodes: Collection[int]) -> frozenset[int]:
    """Return which of these sockets process 1 has: those of systemd's socket units. Without the right none."""
    try:
        return frozenset(proc.sockets(1, inodes))
    except PermissionError:
        return frozenset()


def resolved(match: MatchConfig) -> MatchConfig:
    """Return a match with the file that a link of its executable leads to, as /proc has it."""
    if match.executable is None:
        return match
    return match.model_copy(update={"executable": Path(os.path.realpath(match.executable))})


def _read_pidfiles(paths: Iterable[Path], problems: list[ProblemLine]) -> dict[Path, int]:
    found = {}
    for path in paths:
        try:
            if (pid := proc.read_pidfile(path)) is not None:
                found[path] = pid
        except OSError as error:
            problems.append(PIDFILE_UNREADABLE.line(path=path, error=error.strerror))
        except ValueError:
            problems.append(PIDFILE_EMPTY.line(path=path))
    return found
