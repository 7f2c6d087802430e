# SPDX-License-Identifier: Apache-2.0
"""What all printers of responses share: safe texts, colors of states, tables."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from rich.markup import escape
from rich.table import Table

from bgp.printable import escaped

Response = dict[str, Any]

_COLORS = {"up": "green", "draining": "yellow", "lost": "red", "left": "dim", "down": "red", "unknown": "yellow"}


def _escaped(value: Any) -> Any:
    """Return the value with its texts escaped: rich prints `[fd00::1]` literally, and no text steers the terminal."""
    if isinstance(value, str):
        return escape(escaped(value))
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return {_escaped(key): _escaped(item) for key, item in value.items()} if isinstance(value, dict) else value


def printer(show: Callable[[Response], None]) -> Callable[[Response], None]:
    """Decorate a function that prints a response, so that it gets one without markup."""
    return functools.wraps(show)(lambda response: show(_escaped(response)))


def state_text(value: str) -> str:
    """Return a state in its color."""
    color = _COLORS.get(value)
    return f"[{color}]{value}[/]" if color else value


def table_of(*columns: str) -> Table:
    """Return an empty table with these columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
