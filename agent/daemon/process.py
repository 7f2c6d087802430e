# SPDX-License-Identifier: Apache-2.0
"""What surrounds the agent's process: its files, its lock, and whom it trusts at the other end of a socket."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.errors import AgentError


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the agent keeps its run-time files."""

    run: Path = Path("/run/anylb")
    pins: Path = Path("/sys/fs/bpf/anylb")
    relay: Path = Path("/run/anylb-bgp/relay.sock")
    kept: Path = Path("/var/lib/anylb")
    programs: Path = Path("/var/cache/anylb")
    """What the compiler made, for the next start."""

    @property
    def lock(self) -> Path:
        """Held by the agent as long as it lives."""
        return self.run / "agent.lock"

    @property
    def control(self) -> Path:
        """The control socket."""
        return self.run / "agent.sock"

    @property
    def state(self) -> Path:
        """What outlives an agent until the next boot."""
        return self.run / "state.json"

    @property
    def orders(self) -> Path:
        """What the operator said of VIPs; it outlives a reboot."""
        return self.kept / "orders.json"


def prepare(folder: Path) -> None:
    """Make the folder of the run-time files. Raises AgentError."""
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise AgentError(f"{folder}: {error.strerror}; the agent runs as root") from None


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


@contextlib.contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Two agents on one node would fight over its maps and routes."""
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
        with contextlib.suppress(OSError):  # a full disk; the lock holds all the same
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        yield


def spare_memory() -> None:
    """Have large arrays given back when they are freed (mallopt(3)).

    glibc raises its own threshold with each large block that is freed, up to 32 MB, and then keeps what a table was
    made with: 10 MB and more for the rest of the daemon's life. Another libc does as it pleases.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_MMAP_THRESHOLD, 128 << 10)
        libc.mallopt(_M_TRIM_THRESHOLD, 128 << 10)


def uids_of(user: str) -> set[int]:
    """Who may serve the relay's socket: the BGP user, and root."""
    try:
        return {0, pwd.getpwnam(user).pw_uid}
    except KeyError:
        raise AgentError(f"bgp.user: there is no user {user} here; create it or name another") from None
