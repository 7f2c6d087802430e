# SPDX-License-Identifier: Apache-2.0
"""The files in the run directory: how they are replaced, and who holds the lock. I/O only; speaker.py lists the files.

The directory belongs to root, and the BGP user may add files to it. A file must be readable for that user's group and
for no other, and giving a file a group takes CAP_CHOWN, which the agent's unit lacks. So beside each file that a
reload replaces lies a spare one of that group: the new content is written there, and both change names at once
(renameat2(2), RENAME_EXCHANGE).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import stat
from pathlib import Path

from bgp.errors import BgpError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
RESTART = "restart it: `systemctl restart lb-bgp`"


def write_file(path: Path, content: bytes, gid: int) -> None:
    """Write a temporary file and rename it, so that no link of the BGP user in this directory is followed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchown(descriptor, -1, gid)
        os.fchmod(descriptor, 0o640)
    aside.rename(path)


def make_spare(path: Path, gid: int) -> None:
    """Make the empty file that a later `exchange_file` of this file needs. OSError."""
    write_file(_spare(path), b"", gid)


def exchange_file(path: Path, content: bytes) -> None:
    """Replace a file at once, which keeps its group and mode. BgpError without a spare file; OSError."""
    spare = _spare(path)
    try:
        descriptor = os.open(spare, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BgpError(f"{spare}: is missing: this ExaBGP is of an earlier release; {RESTART}") from None
    with os.fdopen(descriptor, "wb") as file:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
            raise BgpError(f"{spare}: is not a file of this user: remove it, and {RESTART}")
        file.truncate()
        file.write(content)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(spare), _AT_FDCWD, os.fsencode(path), _RENAME_EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))


def clear_spare(path: Path) -> None:
    """Empty what an exchange replaced: it may hold passwords. Not before ExaBGP, which may be reading it, is done."""
    with contextlib.suppress(OSError):
        os.truncate(_spare(path), 0)


def lock_holder(lock: Path) -> int | None:
    """Return the process id of the ExaBGP that holds the lock; None if none runs. BgpError while it is starting."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BgpError(f"{lock}: {error.strerror}") from None
    with os.fdopen(descriptor) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            content = file.read(20).strip()
            if content.isdigit():
                return int(content)
            raise BgpError(f"{lock}: ExaBGP is starting: try again") from None
    return None


def _spare(path: Path) -> Path:
    return path.with_name(f".{path.name}.spare")
