# SPDX-License-Identifier: Apache-2.0
"""The lock that keeps a second agent off this node."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from agent.errors import AgentError


@contextlib.contextmanager
def only_agent(lock: Path) -> Iterator[None]:
    """Hold the lock for as long as the context lasts; make its folder first. Raises AgentError if another agent runs.

    Two agents on one node would overwrite each other's maps and routes.
    """
    try:
        lock.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise AgentError(f"{lock.parent}: {error.strerror}; the agent runs as root") from None
    try:
        file = lock.open("a+")
    except OSError as error:
        raise AgentError(f"{lock}: {error.strerror}; the agent runs as root") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise AgentError(f"{lock}: another agent (pid {owner}) runs on this node; stop it first") from None
        with contextlib.suppress(OSError):  # a full disk; the lock holds nevertheless
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        yield
