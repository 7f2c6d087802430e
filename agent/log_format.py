# SPDX-License-Identifier: Apache-2.0
"""The format of the agent's log."""

from __future__ import annotations

import logging
from typing import Any

from bgp.printable import escaped


class LogFormatter(logging.Formatter):
    """A formatter whose messages are one printable line each. Only a traceback has more lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return escaped(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """Return a traceback, its lines printable."""
        return "\n".join(map(escaped, super().formatException(ei).splitlines()))


class JournalFormatter(LogFormatter):
    """The same for journald, which adds the time: each line begins with its level, `<4>` (sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
        level = next(number for limit, number in _PRIORITIES if record.levelno >= limit)
        return "\n".join(f"<{level}>{line}" for line in super().format(record).splitlines())


_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))
"""From Python's levels to those of syslog(3)."""
