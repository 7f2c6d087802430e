# SPDX-License-Identifier: Apache-2.0
"""What happened on this node, when and why: each line of the log as a JSON object in a file, for `lbctl events`.

Kept for 7 days, in two files of 1 MB at most: the newer is written, and takes the place of the older when it is full.
It is there without an agent too. A disk that is full costs events, and is named in the log; nothing else notices.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from agent import private_file

KEPT_S = 7 * 86_400.0
MAX_BYTES = 1 << 20
POLL_S = 0.3
MAX_TEXT = 2_000
TAIL_BYTES = 1 << 16


class EventLog(logging.Handler):
    """Appends each record to a file."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        super().__init__(logging.INFO)
        self._path, self._max_bytes = path, max_bytes
        self._failing = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write one event. A failure is logged once, until it is over."""
        if self._failing and record.name.endswith(".events"):
            return
        event = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "source": record.module,
            "text": record.getMessage()[:MAX_TEXT],
        }
        try:
            self._write(json.dumps(event) + "\n")
            self._failing = False
        except OSError as error:
            if not self._failing:
                self._failing = True
                line = "%s: %s; `lbctl events` lacks what happens now"
                logging.getLogger("anylb.events").error(line, self._path, error.strerror)

    def _write(self, line: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_size + len(line) > self._max_bytes:
                os.replace(self._path, older(self._path))
        private_file.make_folder(self._path.parent)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        with os.fdopen(private_file.open_file(self._path, flags), "a", encoding="utf-8") as file:
            file.write(line)


def older(path: Path) -> Path:
    """Return the file of older events."""
    return path.parent / f"{path.name}.1"


def forget_old(path: Path, wall: float) -> None:
    """Remove a file whose last event is older than is kept."""
    for file in (older(path), path):
        with contextlib.suppress(OSError):
            if wall - file.stat().st_mtime > KEPT_S:
                file.unlink()


def read(path: Path, since: float) -> Iterator[dict[str, Any]]:
    """Yield the events since a time (seconds since 1970), the oldest first. Raises OSError, but for a missing file."""
    for file in (older(path), path):
        with contextlib.suppress(FileNotFoundError), _open(file) as lines:
            yield from _events(lines, since)


def latest(path: Path, count: int) -> list[dict[str, Any]]:
    """Return the last events, the newest first; fewer if they are long. Reads the ends of the files alone.

    Raises OSError, but for a missing file.
    """
    found: list[dict[str, Any]] = []
    for file in (path, older(path)):
        with contextlib.suppress(FileNotFoundError), file.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = stream.read().decode(errors="replace").splitlines()
            found += reversed(list(_events(iter(lines), 0.0)))
        if len(found) >= count:
            break
    return found[:count]


def follow(path: Path) -> Iterator[dict[str, Any]]:
    """Yield events as they happen, from now on, without end. Raises OSError."""
    file = _open(path) if path.exists() else None
    if file is not None:
        file.seek(0, os.SEEK_END)
    while True:
        if file is not None:
            yield from _events(iter(file.readline, ""), 0.0)
        with contextlib.suppress(FileNotFoundError):
            if file is None or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                if file is not None:
                    yield from _events(iter(file.readline, ""), 0.0)
                    file.close()
                file = _open(path)
                continue
        time.sleep(POLL_S)


def _open(path: Path) -> TextIO:
    """Open a regular file for reading: a device or a FIFO would have no end. Raises OSError."""
    return os.fdopen(private_file.open_file(path, os.O_RDONLY), encoding="utf-8", errors="replace")


def _events(lines: Iterator[str], since: float) -> Iterator[dict[str, Any]]:
    """Yield the events of some lines; one that is cut off, or no event, is left out."""
    for line in lines:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and set(event) >= {"time", "level", "text"} and event["time"] >= since:
                yield event
