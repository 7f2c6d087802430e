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
