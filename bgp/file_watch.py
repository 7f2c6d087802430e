# SPDX-License-Identifier: Apache-2.0
"""Files by which one process tells another something: it replaces them, the other looks whether it has. I/O only."""

from __future__ import annotations

import os
from pathlib import Path


def replace(path: Path, content: bytes) -> None:
    """Put a file in the place of the one before, whole. OSError when that cannot be."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    aside.rename(path)


class WatchedFile:
    """A file that another process replaces from time to time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int] | None = None

    def news(self) -> bytes | None:
        """Return the content if the file has been replaced since the last call, else None; b"" when it has gone."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                mark = (status.st_ino, status.st_mtime_ns)
                if mark == self._seen:
                    return None
                self._seen = mark
                return file.read()
        except OSError:
            gone, self._seen = self._seen is not None, None
            return b"" if gone else None
