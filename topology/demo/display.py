# SPDX-License-Identifier: Apache-2.0
"""The demo's result as tables for people, by rich. Owns no figures."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from topology.demo.report import ANYLB, Spread, StepResult
from topology.demo.runner import SPREAD_S
from topology.demo.scenario import FOUR, Step

NONE = "-"
#: A client that was later than this gets a caption: silences up to its lag are its own.
LAG_MS = 250
#: The data path's counters that show how nodes share the work; `lbctl status` has the others.
COUNTERS = {
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
    """Return an empty table that fits 80 columns."""
    table = Table(title=title, caption=caption, title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.collapse_padding = True
    return table


def _add_figure_columns(table: Table, names: Iterable[str]) -> None:
    """Add right-aligned columns whose headings break between words alone."""
    for name in names:
        longest = max(map(len, name.split()))
        table.add_column(name, justify="right", min_width=longest, max_width=longest + 2)


def result_table(router: str, steps: Sequence[Step], results: Sequence[StepResult], titles: Mapping[str, str]) -> Table:
    """Return the results, one line per step and lab; `titles` are the labs' in the table."""
    caption = "silence: between answers, 100 ms at best; router, tables: until converged"
    table = _table(f"Open connections in each step (router: {router})", caption)
    table.add_column("step", no_wrap=True)
    table.add_column("lab", no_wrap=True)
    headings = ("open", "broken", "lost with server", "new failed", "silence ms", "router ms", "tables ms")
    _add_figure_columns(table, headings)
    late = max((result.lag_ms for result in results), default=0)
    if late > LAG_MS:
        table.caption = f"{caption}\nthe client itself was up to {late} ms late: this machine is busy"
    for step in steps:
        of_step = [result for result in results if result.step == step.name]
        for number, result in enumerate(of_step):
            table.add_row(
                step.name if number == 0 else "",
                titles[result.lab],
                _figure(result.connections),
                _count(result.broken, result.broken == 0),
                _figure(result.on_stopped) if step.stopped else NONE,
                _count(result.failed_new, result.failed_new == 0 or (result.lab == ANYLB and result.failed_late == 0)),
                _figure(result.longest_silence_ms),
                _figure(result.router_ms),
                _figure(result.agree_ms),
            )
    return table


def spread_table(title: str, spread: Spread) -> Table:
    """Return where the connections are, and what each node's data path counted meanwhile."""
    caption = f"{spread.direct:,} answers came directly from the server that they name, {spread.indirect:,} did not"
    if spread.missed:
        caption += f" ({spread.missed:,} frames missed)"
    table = _table(f"Spread in the lab {title}: connections, packets in {SPREAD_S:g} s", caption)
    table.min_width = 72  # title and caption are a line each, in the lab with three columns too
    table.add_column("node")
    _add_figure_columns(table, ("enter here", "served here", *(COUNTERS.values() if spread.counters else ())))
    for node in sorted(FOUR | set(spread.ingress) | set(spread.owner)):
        counter = spread.counters.get(node, Counter[str]())
        figures = [spread.ingress[node], spread.owner[node], *(counter[name] for name in COUNTERS if spread.counters)]
        table.add_row(node, *map(_figure, figures))
    return table


def step_line(results: Sequence[StepResult], titles: Mapping[str, str]) -> str:
    """Return one line for a finished step, in both labs."""
    parts = [
        f"{titles[result.lab]} broke {result.broken} of {result.connections - result.on_stopped}" for result in results
    ]
    return f"{results[0].step}: " + ", ".join(parts)
