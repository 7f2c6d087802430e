# SPDX-License-Identifier: Apache-2.0
"""Messages to the service manager that started this process: the protocol of sd_notify(3). I/O only.

Standard library only: the relay archive carries this file.
"""

from __future__ import annotations

import contextlib
import os
import socket

_MAX_STATUS = 200
"""Characters of STATUS=: `systemctl status` shows one line."""


def notify(*assignments: str) -> None:
    """Send assignments such as `READY=1`. Without a service manager, or when it does not read, nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto("\n".join(assignments).encode(), address.replace("@", "\0", 1))


def status(text: str) -> str:
    """Return the assignment that has `systemctl status` show a text, on one line."""
    line = " ".join(text.split())
    return f"STATUS={line if len(line) <= _MAX_STATUS else line[: _MAX_STATUS - 1] + '…'}"


def watchdog_s() -> float | None:
    """Return how long the service manager waits for `WATCHDOG=1` before it kills this process; None: it does not."""
    interval, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not interval.isdigit() or pid not in ("", str(os.getpid())):
        return None
    return int(interval) / 1e6
