# SPDX-License-Identifier: Apache-2.0
"""Processes and their sockets from /proc, and copies of their sockets. I/O only; what may not be read is left out."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import socket
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from agent import private_file
from agent.instances.match import Process

PROC: Final = Path("/proc")
_PIDFD_GETFD: Final = 438
_GONE: Final = (errno.ESRCH, errno.EBADF)
_SO_COOKIE: Final = 57
_HIERARCHIES: Final = ("", "name=systemd")
"""Those in which systemd puts units: version 2, and its own in version 1 (/proc/PID/cgroup)."""
_STAT: Final = re.compile(r"\) [^ZX] (\d+) (?:\S+ ){17}(\d+)")
"""In /proc/PID/stat behind the name, which may have anything in it: fields 4 (parent) and 22 (start). In state Z the
process has ended, and its parent has not waited for it yet."""


def processes(with_executables: bool, with_cgroups: bool) -> dict[int, Process]:
    """Return all processes, by pid. What no match needs is not read. Raises OSError."""
    found = {}
    for name in os.listdir(PROC):
        if name.isdigit():
            # It has ended, or may not be read. That no descriptor is left is not the end of all processes.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError, ValueError):
                pid = int(name)
                found[pid] = _read(pid, with_executables, with_cgroups)
    return found


def process(pid: int) -> Process | None:
    """Return one process; None if there is none."""
    try:
        return _read(pid, True, True)
    except (OSError, ValueError):
        return None


def _read(pid: int, with_executable: bool, with_cgroups: bool) -> Process:
    numbers = _STAT.search(_text(pid, "stat"))
    if numbers is None:
        raise ValueError("stat")
    executable = ""
    if with_executable:
        with contextlib.suppress(OSError):  # a kernel thread; or no right to
            executable = os.readlink(f"{PROC}/{pid}/exe")
    cgroups = tuple(_cgroups(_text(pid, "cgroup"))) if with_cgroups else ()
    return Process(pid, int(numbers[1]), int(numbers[2]), executable, cgroups)


def _text(pid: int, name: str) -> str:
    descriptor = os.open(f"{PROC}/{pid}/{name}", os.O_RDONLY)
    try:
        return os.read(descriptor, 1 << 14).decode(errors="replace")
    finally:
        os.close(descriptor)


def _cgroups(text: str) -> Iterable[str]:
    for line in text.splitlines():
        _, hierarchy, path = line.split(":", 2)
        if hierarchy in _HIERARCHIES:
            yield path


def may_read_executables() -> bool:
    """Return whether this process has the right to see what others run; init runs as root, with all rights."""
    try:
        os.readlink(f"{PROC}/1/exe")
    except PermissionError:
        return False
    except OSError:
        pass
    return True


def is_here(pid: int) -> bool:
    """Return whether a process is in this network namespace, as far as it may be known."""
    return _net(pid) in (_net(os.getpid()), "")


def _net(pid: int) -> str:
    """Return the network namespace of a process; empty if it may not be read."""
    try:
        return os.readlink(f"{PROC}/{pid}/ns/net")
    except OSError:
        return ""


def pinned_cpus(pids: Iterable[int]) -> frozenset[int]:
    """Return the CPUs that threads of processes are bound to, each to one alone."""
    found: set[int] = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            for thread in os.listdir(f"{PROC}/{pid}/task"):
                if len(cpus := os.sched_getaffinity(int(thread))) == 1:
                    found |= cpus
    return frozenset(found)


def read_pidfile(path: Path) -> int | None:
    """Return the number in a pidfile; None if there is no file. Raises OSError, or ValueError if it has no number."""
    try:
        content, _ = private_file.read(path, 64)
    except FileNotFoundError:
        return None
    return int(content.split(b"\n", 1)[0])


def sockets(pid: int, wanted: Collection[int]) -> dict[int, int]:
    """Return the descriptors of the wanted sockets in a process, by inode. Raises PermissionError without the right.

    A process that ends meanwhile has none.
    """
    folder = f"{PROC}/{pid}/fd"
    found: dict[int, int] = {}
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, ProcessLookupError):
        return {}
    for name in names:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            target = os.readlink(f"{folder}/{name}")
            if target.startswith("socket:[") and int(target[8:-1]) in wanted:
                found.setdefault(int(target[8:-1]), int(name))
    return found


def copy_socket(pid: int, fd: int, cookie: int) -> socket.socket | None:
    """Return a copy of a process's socket; None if the process has ended, or that descriptor is another socket now.

    The copy must be closed at once: it keeps the socket open when the process ends. Raises OSError without the right.
    """
    try:
        process_fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        copy = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, process_fd, fd, 0)
        number = ctypes.get_errno()
    finally:
        os.close(process_fd)
    if copy < 0:
        if number in _GONE:
            return None
        raise OSError(number, os.strerror(number))
    try:
        one = socket.socket(fileno=copy)
    except OSError:  # a file has the descriptor now
        os.close(copy)
        return None
    if cookie_of(one) == cookie:
        return one
    one.close()
    return None


def cookie_of(one: socket.socket) -> int:
    """Return the kernel's number for a socket (SO_COOKIE)."""
    return int.from_bytes(one.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8), "little")
