# SPDX-License-Identifier: Apache-2.0
"""Log lines of ExaBGP's helpers, which must never block. Standard library only: the helper archives carry this file.

What happens to a session, and why, is a line of theirs; ExaBGP itself logs warnings and errors only.
"""

from __future__ import annotations

import contextlib
import os
import select

from bgp.printable import printable

MAX_CHARACTERS = 480
ERROR, WARNING, INFO = 3, 4, 6
"""The levels of syslog(3)."""


def log(helper: str, text: str, level: int = INFO) -> None:
    """Write one line to stderr, or drop it if the write would block: a writable pipe has room for a short line.

    For journald it begins with its level, `<4>` (sd-daemon(3)).
    """
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"{mark(level)}{helper:<15} {printable(text, MAX_CHARACTERS)}\n".encode())


def mark(level: int) -> str:
    """Return what a line on stderr begins with: `<4>` if journald reads it (systemd.exec(5)). OSError."""
    status = os.fstat(2)
    return f"<{level}>" if os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}" else ""
