# SPDX-License-Identifier: Apache-2.0
"""bench.json as tables for people, with the last committed figures' ratios beside the new ones."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

Rows = Sequence[Mapping[str, Any]]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def was(rows: Rows, keys: Iterable[str], row: Mapping[str, Any], *field: str) -> Any:
    """Find the same figure among the committed ones: the row with the same `keys`, then down the fields; or None."""
    wanted = [row.get(key) for key in keys]
    for old in rows:
        if [old.get(key) for key in keys] == wanted:
            value: Any = old
            for name in field:
                value = value.get(name) if isinstance(value, Mapping) else None
            return value
    return None


def xdp(console: Console, rows: Rows, committed: Rows) -> None:
    """Part 1."""
    table = _table(
        "XDP, ns per packet (TEST_RUN; net: without its loop; flows x: of one flow's)",
        "case", "flows", "min", "median", "x floor", "was", "net", "x floor net", "was", "flows x", "was",
    )  # fmt: skip
    for row in rows:
        old = [was(committed, ("case", "flows"), row, f"ratio_{name}") for name in ("floor", "floor_net", "one_flow")]
        table.add_row(
            row["case"], *map(_text, (row["flows"], row["ns_min"], row["ns_median"], row.get("ratio_floor"), old[0])),
            *map(_text, (row.get("ns_net"), row.get("ratio_floor_net"), old[1], row.get("ratio_one_flow"), old[2])),
        )  # fmt: skip
    console.print(table)


PARTS = {"xdp": xdp}


def show(console: Console, figures: Mapping[str, Any], committed: Mapping[str, Any]) -> None:
    """Print all parts that were measured."""
    for name, part in PARTS.items():
        if name in figures:
            console.print()
            part(console, figures[name], committed.get(name, []))
