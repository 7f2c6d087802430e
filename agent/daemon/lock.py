# SPDX-License-Identifier: Apache-2.0
"""The lock that keeps a second agent off this node.

Whoever can open a file can lock it (flock(2)), so the lock and its folder are closed to other users. A process of
another user that opened the lock before is left with a file that is none any more.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from agent import private_file
from agent.errors import AgentError

log = logging.getLogger("anylb")

LOCKS = Path("/proc/locks")


@contextlib.contextmanager
def only_agent(lock: Path) -> Iterator[None]:
    """Hold the lock for as long as the context lasts; make its folder first. Raises AgentError if another agent runs.

    Two agents on one node would overwrite each other's maps and routes.
    """
    try:
        private_file.make_folder(lock.parent)
        descriptor = _locked(lock)
    except OSError as error:
        step = "; the agent runs as root" if error.errno == errno.EACCES else ""
        raise AgentError(f"{error.filename or lock}: {error.strerror}{step}") from None
    with os.fdopen(descriptor, "r+") as file:
        with contextlib.suppress(OSError):  # a full disk; the lock holds nevertheless
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        yield


def _locked(lock: Path) -> int:
    """Return the descriptor of the locked file. Raises AgentError if another agent has it, OSError."""
    descriptor = private_file.open_file(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    was_open = private_file.close_to_others(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with os.fdopen(descriptor) as file:
            agent = file.read(20).strip() or "unknown"
            intruder = _foreign_holder(os.fstat(descriptor)) if was_open else None
    else:
        return descriptor
    if intruder is None:
        raise AgentError(f"{lock}: another agent (pid {agent}) runs on this node; stop it first") from None
    log.warning("%s: was locked by pid %d, which is no agent; replacing the file", lock, intruder)
    lock.unlink()
    return _locked(lock)


def _foreign_holder(status: os.stat_result) -> int | None:
    """Return the process that holds the lock on a file if it is another user's."""
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with contextlib.suppress(OSError):  # it has just exited
        for line in LOCKS.read_text().splitlines():
            fields = line.split()  # 1: FLOCK ADVISORY WRITE 1234 08:01:5678 0 EOF
            if fields[1] == "FLOCK" and fields[5] == place:
                pid = int(fields[4])
                return pid if private_file.is_foreign(Path(f"/proc/{pid}").stat()) else None
    return None
