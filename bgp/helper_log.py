# SPDX-License-Identifier: Apache-2.0
"""A line to the journal from a process that must never wait. Standard library only: ExaBGP's helpers carry it."""

from __future__ import annotations

import contextlib
import os
import select


def log(who: str, text: str) -> None:
    """Write a line, or drop it if that would have to wait: a writable pipe has room for a short one."""
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"{who:<15} {text}\n"[:512].encode())
