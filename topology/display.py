# SPDX-License-Identifier: Apache-2.0
"""The demo's result for a person: tables by rich. Owns no figures."""

from collections import Counter
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from topology.play import Spread
from topology.report import ANYLB, Row
from topology.scenario import FOUR, Step

NONE = "-"
LAB_TITLES = {"anylb": "anylb", "ecmp": "plain ECMP"}


def _figure(value: int | None, unit: str = "") -> str:
    return NONE if value is None else f"{value:,}{unit}"


def _count(value: int, good: bool) -> Text:
    return Text(f"{value:,}", style="green" if good else "red")


def result_table(router: str, steps: Sequence[Step], rows: Sequence[Row]) -> Table:
    """One line per step and lab."""
    table = Table(title=f"What open connections went through (router: {router})", title_style="bold")
    table.add_column("step")
    table.add_column("what happens", max_width=34)
    table.add_column("lab")
    for name in ("open", "broken", "on the stopped", "new failed", "silence", "router right", "tables agree"):
        table.add_column(name, justify="right")
    for step in steps:
        mine = [row for row in rows if row.step == step.name]
        for number, row in enumerate(mine):
            table.add_row(
                step.name if number == 0 else "",
                step.title if number == 0 else "",
                LAB_TITLES[row.lab],
                _figure(row.connections),
                _count(row.broken, row.broken == 0),
                _figure(row.on_stopped) if step.stopped else NONE,
                _count(row.failed_new, row.failed_new == 0 or (row.lab == ANYLB and row.failed_late == 0)),
                _figure(row.longest_silence_ms, " ms"),
                _figure(row.router_ms, " ms"),
                _figure(row.agree_ms, " ms"),
                end_section=number == len(mine) - 1,
            )
    return table


def spread_table(kind: str, spread: Spread) -> Table:
    """Where the connections are, and what each node's data path counted meanwhile."""
    names = sorted({name for counter in spread.counters.values() for name in +counter})
    caption = f"{spread.direct:,} answers came straight from the server that they name, {spread.astray:,} did not"
    if spread.missed:
        caption += f" ({spread.missed:,} frames not seen)"
    table = Table(title=f"spread, {LAB_TITLES[kind]}", caption=caption, title_style="bold")
    table.add_column("node")
    for name in ("enter here", "served here", *names):
        table.add_column(name.replace("_", " "), justify="right")
    nodes = sorted(FOUR | set(spread.ingress) | set(spread.owner))
    for node in nodes:
        counter = spread.counters.get(node, Counter[str]())
        table.add_row(
            node,
            _figure(spread.ingress.get(node, 0)),
            _figure(spread.owner.get(node, 0)),
            *(_figure(counter.get(name, 0)) for name in names),
        )
    return table


def step_line(rows: Sequence[Row]) -> str:
    """One line for a finished step, in both labs."""
    parts = [f"{LAB_TITLES[row.lab]} broke {row.broken} of {row.connections - row.on_stopped}" for row in rows]
    return f"{rows[0].step}: " + ", ".join(parts)
