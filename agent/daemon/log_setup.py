# SPDX-License-Identifier: Apache-2.0
"""Where the agent's log goes: to stderr, for journald with levels, and to the file of events."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time

from agent.daemon.event_log import EventLog, forget_old
from agent.log_format import JournalFormatter, LogFormatter
from agent.paths import Paths


def start_logging(paths: Paths) -> None:
    """Log from now on."""
    to_stderr = logging.StreamHandler(sys.stderr)
    formatter = JournalFormatter() if _under_journald() else LogFormatter("%(asctime)s %(levelname)s %(message)s")
    to_stderr.setFormatter(formatter)
    forget_old(paths.events, time.time())
    to_file = EventLog(paths.events)
    to_file.addFilter(lambda record: record.name.startswith("anylb"))
    logging.basicConfig(level=logging.INFO, handlers=[to_stderr, to_file])


def _under_journald() -> bool:
    """Return whether stderr is journald's (systemd.exec(5), JOURNAL_STREAM)."""
    with contextlib.suppress(OSError):
        status = os.fstat(sys.stderr.fileno())
        return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    return False
