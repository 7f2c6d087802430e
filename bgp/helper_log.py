# SPDX-License-Identifier: Apache-2.0
"""Log lines of ExaBGP's helpers, which must never block. Standard library only: the helper archives carry this file."""

from __future__ import annotations

import contextlib
import os
import select

from bgp.printable import printable

MAX_CHARACTERS = 480


def log(helper: str, text: str) -> None:
    """Write one line to stderr, or drop it if the write would block: a writable pipe has room for a short line."""
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"{helper:<15} {printable(text, MAX_CHARACTERS)}\n".encode())
