# SPDX-License-Identifier: Apache-2.0
"""Text of others for a terminal or a log: escaped and bounded. Standard library only: the helper archives carry this
file."""

from __future__ import annotations

MAX_CHARACTERS = 300


def escaped(text: str) -> str:
    """Return the text with every character escaped that is not printable.

    Such a character could otherwise move a cursor, begin a line of its own, or reverse what follows (bidirectional
    controls are not printable either).
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable(text: str, limit: int = MAX_CHARACTERS) -> str:
    """Return the text escaped, and cut after `limit` characters."""
    shown = escaped(text[:limit])
    return shown if len(shown) <= limit and len(text) <= limit else shown[: limit - 1] + "…"
