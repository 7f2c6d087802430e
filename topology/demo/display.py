# SPDX-License-Identifier: Apache-2.0
"""The demo's result for a person: tables by rich. Owns no figures."""

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from topology.demo.play import SPREAD_S
from topology.demo.report import ANYLB, Row, Spread
from topology.demo.scenario import FOUR, Step

NONE = "-"
#: A client that was this late is worth a word: silences up to that are its own.
LAG_MS = 250
LAB_TITLES = {"anylb": "anylb", "ecmp": "ECMP"}
#: The data path's counters that show the sharing of the work; the others are told by `lbctl status`.
SHOWN = {
    "rx": "from the router",
    "forward_first": "sent to the owner",
    "rx_forwarded": "from other nodes",
    "deliver_socket": "to open sockets",
    "deliver_owner": "to the listener",
}


def _figure(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def _count(value: int, good: bool) -> Text:
    return Text(f"{value:,}", style="green" if good else "red")


def _table(title: str, caption: str | None = None) -> Table:
    """A table that fits 80 columns."""
    table = Table(title=title, caption=caption, title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.collapse_padding = True
    return table


def _add_figure_columns(table: Table, names: Iterable[str]) -> None:
    """Add right-aligned columns whose headings break between words and nowhere else."""
    for name in names:
        longest = max(map(len, name.split()))
        table.add_column(name, justify="right", min_width=longest, max_width=longest + 2)


def result_table(router: str, steps: Sequence[Step], rows: Sequence[Row]) -> Table:
    """One line per step and lab."""
    caption = "silence: between answers, every 100 ms at best; router, tables: until right"
    table = _table(f"What open connections went through (router: {router})", caption)
    table.add_column("step", no_wrap=True)
    table.add_column("lab", no_wrap=True)
    headings = ("open", "broken", "on the stopped", "new failed", "silence ms", "router ms", "tables ms")
    _add_figure_columns(table, headings)
    late = max((row.lag_ms for row in rows), default=0)
    if late > LAG_MS:
        table.caption = f"{caption}\nthe client itself was up to {late} ms late: this machine is busy"
    for step in steps:
        mine = [row for row in rows if row.step == step.name]
        for number, row in enumerate(mine):
            table.add_row(
                step.name if number == 0 else "",
                LAB_TITLES[row.lab],
                _figure(row.connections),
                _count(row.broken, row.broken == 0),
                _figure(row.on_stopped) if step.stopped else NONE,
                _count(row.failed_new, row.failed_new == 0 or (row.lab == ANYLB and row.failed_late == 0)),
                _figure(row.longest_silence_ms),
                _figure(row.router_ms),
                _figure(row.agree_ms),
            )
    return table


def spread_table(kind: str, spread: Spread) -> Table:
    """Where the connections are, and what each node's data path counted meanwhile."""
    caption = f"{spread.direct:,} answers came straight from the server that they name, {spread.astray:,} did not"
    if spread.missed:
        caption += f" ({spread.missed:,} frames not seen)"
    table = _table(f"Spread in the lab {LAB_TITLES[kind]}: connections, packets in {SPREAD_S:g} s", caption)
    table.add_column("node")
    _add_figure_columns(table, ("enter here", "served here", *(SHOWN.values() if spread.counters else ())))
    for node in sorted(FOUR | set(spread.ingress) | set(spread.owner)):
        counter = spread.counters.get(node, Counter[str]())
        figures = [spread.ingress[node], spread.owner[node], *(counter[name] for name in SHOWN if spread.counters)]
        table.add_row(node, *map(_figure, figures))
    return table


def step_line(rows: Sequence[Row]) -> str:
    """One line for a finished step, in both labs."""
    parts = [f"{LAB_TITLES[row.lab]} broke {row.broken} of {row.connections - row.on_stopped}" for row in rows]
    return f"{rows[0].step}: " + ", ".join(parts)
