# SPDX-License-Identifier: Apache-2.0
"""Texts from files and from the network, for a terminal or a log. Pure."""

from __future__ import annotations

import logging
from typing import Any


def printable(text: str) -> str:
    """Return the text with what is not printable escaped: ESC steers a terminal, a newline forges a line."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


class LogFormatter(logging.Formatter):
    """A formatter whose messages are one printable line each. Only a traceback has more lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """Return a traceback, its lines printable."""
        return "\n".join(map(printable, super().formatException(ei).splitlines()))
