# SPDX-License-Identifier: Apache-2.0
"""Files that other users of the machine must not plant, read, lock or block. I/O only; every error is an OSError whose
`strerror` is for the operator.

A FIFO would block its reader for ever, and a link leads elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_file(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a regular file without waiting for another process, and return its descriptor."""
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno == errno.ELOOP and flags & os.O_NOFOLLOW:
            raise _error(errno.ELOOP, "is a symbolic link; remove it", path) from None
        raise
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise _error(errno.EINVAL, f"is {_KINDS.get(kind, 'something else')}, not a file", path)
    return descriptor


def close_to_others(descriptor: int) -> bool:
    """Make an open file or folder this user's alone; return whether others could have opened it before."""
    status = os.fstat(descriptor)
    was_open = is_foreign(status) or status.st_mode & 0o077 != 0
    if is_foreign(status):
        os.fchown(descriptor, os.geteuid(), os.getegid())
    if was_open:
        os.fchmod(descriptor, status.st_mode & 0o700)
    return was_open


def read(path: Path, max_bytes: int) -> tuple[bytes, os.stat_result]:
    """Return the content of a regular file, to which a link may lead, and its status."""
    with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
        content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise _error(errno.EFBIG, f"is larger than {max_bytes} bytes", path)
        return content, os.fstat(file.fileno())


def read_own(path: Path, max_bytes: int) -> bytes:
    """Return the content of a file that only this user or root can have written."""
    with os.fdopen(open_file(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        status = os.fstat(file.fileno())
        if is_foreign(status) or status.st_mode & 0o022:
            raise _error(errno.EPERM, "other users could have written it; remove it", path)
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise _error(errno.EFBIG, f"is larger than {max_bytes} bytes", path)
    return content


def create(path: Path, content: str, *, sync: bool = False) -> None:
    """Write a new file, for this user alone. Raises FileExistsError if it is there. `sync`: it survives a crash."""
    descriptor = open_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
    except OSError:
        path.unlink()
        raise


def write(path: Path, content: str, *, sync: bool = False) -> None:
    """Replace a file as a whole, for this user alone: no reader ever sees half of it. `sync`: it survives a crash."""
    aside = path.with_name(f"{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    create(aside, content, sync=sync)
    os.replace(aside, path)


def make_folder(path: Path) -> None:
    """Make a folder that only this user can enter, or close the one that is there to others."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:  # Linux's answer to a link, with O_DIRECTORY
        raise _error(errno.ENOTDIR, "is a symbolic link; remove it", path) from None
    try:
        status = os.fstat(descriptor)
        if is_foreign(status):
            raise _error(errno.EPERM, f"belongs to {user_name(status.st_uid)}; remove it", path)
        if status.st_uid == os.geteuid():
            close_to_others(descriptor)
    finally:
        os.close(descriptor)


def is_foreign(status: os.stat_result) -> bool:
    """Return whether a file belongs neither to root nor to this user."""
    return status.st_uid not in (0, os.geteuid())


def user_name(uid: int) -> str:
    """Return `user NAME`, or `uid NUMBER` for one without a name."""
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"uid {uid}"


def _error(number: int, message: str, path: Path) -> OSError:
    return OSError(number, message, str(path))
