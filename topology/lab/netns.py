# SPDX-License-Identifier: Apache-2.0
"""Namespace and mount system calls by ctypes: what Python 3.11 lacks (os.unshare and os.setns came with 3.12).

Owns: thin calls, and entering the namespaces of another process. Does not own: what a node consists of (init.py,
mounts.py), links (link.py). Standard library only, since a node's init imports it without site-packages.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from topology.errors import LabError

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_NOSUID = 2
MS_NODEV = 4
MS_REC = 16384
MS_PRIVATE = 1 << 18

# System calls that glibc 2.35 and older have no function for; their numbers are the same on all machines.
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH, _MOUNT_ATTR_RDONLY = 1, 4, 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Call unshare(2). With CLONE_NEWPID only later children are inside. Raises OSError."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    """Call setns(2) for this thread. With CLONE_NEWPID only its later children are inside. Raises OSError."""
    _check(_libc.setns(fd, flags), "setns")


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """Call mount(2). Raises OSError that names the target."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    _check(_libc.mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3]), f"mount {target}")


def clone_mounts(path: str) -> int:
    """Return a descriptor of a copy of what is mounted at and below a path, not attached anywhere.

    Raises OSError that names the path.
    """
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    fd: int = _libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags)
    _check(fd, path)
    return fd


def attach_mounts(fd: int, target: str) -> None:
    """Attach what `clone_mounts` returned. Raises OSError that names the target."""
    arguments = (fd, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
    _check(_libc.syscall(_SYS_MOVE_MOUNT, *arguments), f"mount {target}")


def make_read_only(path: str) -> None:
    """Let nothing be written to what is mounted at and below a path, in this namespace. Raises OSError."""
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY)  # struct mount_attr: set, clear, propagation, user namespace
    arguments = (_AT_FDCWD, os.fsencode(path), _AT_RECURSIVE, attributes, ctypes.c_size_t(ctypes.sizeof(attributes)))
    _check(_libc.syscall(_SYS_MOUNT_SETATTR, *arguments), f"make {path} read-only")


@contextmanager
def _entered(pid: int, kind: str, own: str, flags: int) -> Iterator[None]:
    with ExitStack() as stack:
        back = os.open(own, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, back)
        try:
            there = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, there)
            setns(there, flags)
        except OSError as error:
            raise LabError(f"process {pid} cannot be entered, it has probably died ({error.strerror})") from None
        stack.callback(setns, back, flags)
        yield


def inside_net(pid: int) -> AbstractContextManager[None]:
    """Open this thread's sockets in the network namespace of process `pid`, within this context.

    Raises LabError if that process is dead.
    """
    return _entered(pid, "net", "/proc/thread-self/ns/net", CLONE_NEWNET)


def children_inside_pid(pid: int) -> AbstractContextManager[None]:
    """Start this thread's children in the pid namespace of process `pid`, within this context.

    Unlike `nsenter --pid`, which forks, the child is the caller's own: its host pid, exit status and signals are
    direct. No thread may start meanwhile (clone(2): CLONE_THREAD needs one pid namespace). Raises LabError if
    that process is dead.
    """
    return _entered(pid, "pid", "/proc/self/ns/pid", CLONE_NEWPID)
