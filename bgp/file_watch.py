# SPDX-License-Identifier: Apache-2.0
"""Files as a channel between two processes: one replaces a file, the other polls it. I/O only.

Standard library only: the helper archives carry this file.
"""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file atomically. OSError if it cannot be written."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    aside.rename(path)


class WatchedFile:
    """A file that another process replaces from time to time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int] | None = None
        self._touched = self._stamp()

    def was_touched(self) -> bool:
        """Return whether the file was replaced, or its time set, since the last call. Does not open the file."""
        before, self._touched = self._touched, self._stamp()
        return self._touched is not None and self._touched != before

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def read_if_replaced(self) -> bytes | None:
        """Return the content if the file was replaced since the last call, b"" if it was removed, otherwise None."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                mark = (status.st_ino, status.st_mtime_ns)
                if mark == self._seen:
                    return None
                self._seen = mark
                return file.read()
        except OSError:
            removed, self._seen = self._seen is not None, None
            return b"" if removed else None
