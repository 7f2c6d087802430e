# SPDX-License-Identifier: Apache-2.0
"""What all printers of responses share: safe texts, colors of states, and tables that fit the terminal.

At a terminal, lines break between words to fit its width, and never within one: an address stays whole. In a pipe there
is neither color nor a line break, so that grep finds a row by its line; COLUMNS sets a width there too.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO

import click

from bgp.printable import escaped

Response = dict[str, Any]

STATE_COLORS = {"up": "green", "draining": "yellow", "lost": "red", "left": "dim", "down": "red", "unknown": "yellow"}
_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_CODE = re.compile("\x1b\\[[0-9]+m")
_GAP = "  "
_LETTERS = " kMGTPE"
EXACT = 10_000
"""From here on people get three digits of a count; programs have all by `-o json`."""
_UNLIMITED = 1_000_000
_LEAST_NAME = 11
"""Columns that an elided name keeps: the five letters at either end still differ in most names."""


def _escaped(value: Any) -> Any:
    """Return the value with its texts escaped: no text steers the terminal."""
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return {_escaped(key): _escaped(item) for key, item in value.items()} if isinstance(value, dict) else value


def printer(show: Callable[[Response], None]) -> Callable[[Response], None]:
    """Decorate a function that prints a response, so that it gets one whose texts are safe to print."""
    return functools.wraps(show)(lambda response: show(_escaped(response)))


def steers(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that escape sequences steer."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(color: str | None, text: object) -> str:
    """Return the text in a color, word by word, so that a line may break in it; unchanged where there are no colors."""
    if color is None or not steers(sys.stdout) or "NO_COLOR" in os.environ:
        return str(text)
    return " ".join(f"\x1b[{_CODES[color]}m{part}\x1b[0m" if part else part for part in str(text).split(" "))


def state_text(value: str) -> str:
    """Return a state in its color."""
    return paint(STATE_COLORS.get(value), value)


def width() -> int:
    """Return how many columns a line may have."""
    if os.environ.get("COLUMNS", "").isdigit():
        return int(os.environ["COLUMNS"]) or _UNLIMITED
    if not sys.stdout.isatty():
        return _UNLIMITED
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _UNLIMITED
    except OSError:
        return 80


def print_line(text: str = "") -> None:
    """Print a text; lines after its first are indented."""
    click.echo("\n".join(wrapped(text, width(), "  ")))


def wrapped(text: str, columns: int, indent: str = "") -> list[str]:
    """Return the text's lines, broken between words to have so many columns; a longer word has a line of its own."""
    if len(_shown(text)) <= columns:
        return [text]
    lines: list[str] = []
    for part in text.split(" "):
        joined = f"{lines[-1]} {part}" if lines else part
        if lines and len(_shown(joined)) <= columns:
            lines[-1] = joined
        else:
            lines.append(indent + part if lines else part)
    return lines


def shortened(count: float) -> str:
    """Return a count in at most five characters: `9,999`, then three digits and a letter: `12.3k`, `4.56M`, `18.4E`."""
    if round(count) < EXACT:
        return f"{count:,.0f}"
    digits, _, exponent = f"{count:.2e}".partition("e")
    letter, before_point = divmod(int(exponent), 3)
    return f"{float(digits) * 10**before_point:.{2 - before_point}f}{_LETTERS[letter]}"


def fitting(columns: int, table: Table, *narrower: Table) -> list[str]:
    """Return a table's lines if none of them has to break, else those of the narrower ones, one below the other."""
    if table.width() <= columns:
        return table.lines(columns)
    return [line for one in narrower for line in one.lines(columns)]


def elided(text: str, columns: int) -> str:
    """Return a plain text in at most so many columns, with … in place of its middle if it is longer."""
    if len(text) <= columns:
        return text
    end = (columns - 1) // 2
    return f"{text[: columns - 1 - end]}…{text[len(text) - end :]}"


class Table:
    """Rows of texts, under headings. Empty columns are left out."""

    def __init__(self, *headings: str, elide: str | None = None) -> None:
        """Make an empty table. `elide`: the heading of a column of plain names, elided where the table is too wide."""
        self._headings = headings
        self._elide = None if elide is None else headings.index(elide)
        self._rows: list[tuple[str, ...]] = []

    def add_row(self, *cells: str) -> None:
        """Append a row; missing cells at its end are empty."""
        self._rows.append((*cells, *[""] * (len(self._headings) - len(cells))))

    def lines(self, columns: int) -> list[str]:
        """Return the table in lines of at most so many columns, if its longest words allow that."""
        used = [n for n in range(len(self._headings)) if any(row[n] for row in self._rows) or not self._rows]
        headings = [paint("bold", self._headings[n]) for n in used]
        rows = [headings, *([row[n] for n in used] for row in self._rows)]
        widths = _widths(rows, columns)
        if self._elide in used and (excess := _total(widths) - columns) > 0:
            n = used.index(self._elide)
            widths[n] = max(widths[n] - excess, _LEAST_NAME)
            for row in rows[1:]:
                row[n] = elided(row[n], widths[n])
        return [line for row in rows for line in _lines(row, widths)]

    def width(self) -> int:
        """Return how many columns the table takes without breaking a line."""
        return _longest(self.lines(_UNLIMITED))

    def print(self) -> None:
        """Print the table."""
        click.echo("\n".join(self.lines(width())))


def _shown(text: str) -> str:
    """Return what a terminal shows of a text."""
    return _CODE.sub("", text)


def _longest(texts: Iterable[str]) -> int:
    return max((len(_shown(text)) for text in texts), default=0)


def _total(widths: list[int]) -> int:
    """Return the columns that columns of these widths take together."""
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _widths(rows: list[list[str]], columns: int) -> list[int]:
    """Return the columns' widths: the widest that can still break is narrowed first."""
    cells = list(zip(*rows, strict=True))
    widths = [_longest(column) for column in cells]
    least = [_longest(part for cell in column for part in cell.split(" ")) for column in cells]
    excess = _total(widths) - columns
    while excess > 0:
        room = [n for n in range(len(widths)) if widths[n] > least[n]]
        if not room:
            break
        widths[max(room, key=lambda n: widths[n])] -= 1
        excess -= 1
    return widths


def _lines(row: list[str], widths: list[int]) -> list[str]:
    parts = [wrapped(cell, columns) for cell, columns in zip(row, widths, strict=True)]
    lines = []
    for number in range(max(map(len, parts))):
        cells = [part[number] if number < len(part) else "" for part in parts]
        padded = [cell + " " * (size - len(_shown(cell))) for cell, size in zip(cells, widths, strict=True)]
        lines.append(_GAP.join(padded).rstrip())
    return lines
