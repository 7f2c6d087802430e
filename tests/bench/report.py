# SPDX-License-Identifier: Apache-2.0
"""bench.json as tables for people, with the ratios of the last committed figures next to the new ones."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bench.target import targets as judge_targets
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


def committed_figure(rows: Rows, keys: Iterable[str], row: Mapping[str, Any], *field: str) -> Any:
    """Find the same figure among the committed ones: the row with the same `keys`, then its fields; or None."""
    wanted = [row.get(key) for key in keys]
    for old in rows:
        if [old.get(key) for key in keys] == wanted:
            value: Any = old
            for name in field:
                value = value.get(name) if isinstance(value, Mapping) else None
            return value
    return None


def xdp(console: Console, rows: Rows, committed: Rows) -> None:
    """Print part 1."""
    table = _table(
        "XDP, ns per packet (TEST_RUN; net: without its loop; x loads: net, of the floor with loads; flows x: of one)",
        "case", "flows", "gross", "median", "x floor", "was", "net", "x floor", "was", "x loads", "was",
        "flows x", "was",
    )  # fmt: skip
    for row in rows:
        old = [
            committed_figure(committed, ("case", "flows"), row, f"ratio_{name}")
            for name in ("floor", "floor_net", "loads", "one_flow")
        ]
        table.add_row(
            row["case"], *map(_text, (row["flows"], row["ns_min"], row["ns_median"], row.get("ratio_floor"), old[0])),
            *map(_text, (row.get("ns_net"), row.get("ratio_floor_net"), old[1], row.get("ratio_loads"), old[2])),
            *map(_text, (row.get("ratio_one_flow"), old[3])),
        )  # fmt: skip
    console.print(table)


def nat(console: Console, rows: Rows, committed: Rows) -> None:
    """Print part 1, NAT."""
    table = _table(
        "XDP, NAT: ns per packet (TEST_RUN; net: without its loop)",
        "case", "flows", "gross", "median", "net", "was", "median",
    )  # fmt: skip
    for row in rows:
        old = committed_figure(committed, ("case", "flows"), row, "ns_net")
        fields = (row["flows"], row["ns_min"], row["ns_median"], row.get("ns_net"), old, row.get("ns_net_median"))
        table.add_row(row["case"], *map(_text, fields))
    console.print(table)


def system(console: Console, rows: Rows, committed: Rows) -> None:
    """Print part 3, a table for each kind of load."""
    for kind in ("requests", "connections"):
        one = kind[:-1]
        worst = max(row[f"{kind}_disturbed"] for row in rows)
        table = _table(
            f"System, {kind} (medians; ratios of {kind} per CPU second, round by round; others took up to {worst:.0%})",
            "path", "a second", "a CPU second", "x direct", "was", "x haproxy", "was", "raw x direct", "x haproxy",
            "CPU us", "best", "p50 us", "p90", "p99", "p99.9", "where the CPU time goes, us",
        )  # fmt: skip
        for row in rows:
            ratios: list[Any] = []
            for other in ("direct", "haproxy tcp"):
                field = (f"{kind}_per_cpu_s_ratio", other)
                ratios += [row[field[0]].get(other), committed_figure(committed, ["path"], row, *field)]
            raw = [row[f"{kind}_per_s_ratio"].get(other) for other in ("direct", "haproxy tcp")]
            latency = row[f"{kind}_latency_us"]
            table.add_row(
                row["path"], *map(_text, (row[f"{kind}_per_s"], row[f"{kind}_per_cpu_s"], *ratios, *raw)),
                *map(_text, (row[f"cpu_us_per_{one}"], row[f"cpu_us_per_{one}_min"])),
                *(_text(latency[key]) for key in ("p50", "p90", "p99", "p99.9")),
                ", ".join(f"{name} {us:g}" for name, us in row[f"{kind}_cpu_us_by_program"].items()),
            )  # fmt: skip
        console.print(table)
        console.print()


def frames(console: Console, rows: Rows, committed: Rows) -> None:
    """Print part 2."""
    table = _table(
        "Frames a second (live; x first: of the first case in the same place, median of rounds)",
        "case", "flows", "median", "best", "x first", "was", "arrived",
    )  # fmt: skip
    for row in rows:
        old = committed_figure(committed, ("case", "flows"), row, "ratio_first")
        rates = map(_text, (row["flows"], row["frames_per_s"], row["frames_per_s_max"], row["ratio_first"], old))
        table.add_row(row["case"], *rates, f"{row['arrived']:.1%}")
    console.print(table)


def table(console: Console, rows: Rows, committed: Rows) -> None:
    """Print part 4, tables: a line for each subject, a group of columns for each number of members."""
    counts = sorted({row["members"] for row in rows})
    headings = [heading for count in counts for heading in (f"N={count}", "median", "CPU", "was")]
    made = _table("Tables, ms by number of members (best, median, best CPU time, committed CPU time)", "", *headings)
    for case in dict.fromkeys(row["case"] for row in rows):
        cells: list[Any] = []
        for count in counts:
            key = {"case": case, "members": count}
            names = ("ms_min", "ms_median", "cpu_ms_min")
            cells += [committed_figure(rows, key, key, name) for name in names] + [
                committed_figure(committed, key, key, "cpu_ms_min")
            ]
        made.add_row(case, *map(_text, cells))
    console.print(made)


def daemon(console: Console, found: Mapping[str, Any], committed: Any) -> None:
    """Print part 4, the daemon: one figure a line."""
    _lines(console, "The daemon", found, committed)


def drain(console: Console, found: Mapping[str, Any], committed: Any) -> None:
    """Print part 6, a drain in other nodes' rows: one figure a line."""
    _lines(console, "From a drain to the last other node's rows", found, committed)


def scrape(console: Console, found: Mapping[str, Any], committed: Any) -> None:
    """Print part 10, monitoring: one figure a line."""
    _lines(console, "A scrape, and a question for a node's overview (CPU of its agent)", found, committed)


def hand_over(console: Console, found: Mapping[str, Any], committed: Any) -> None:
    """Print part 9, a hand-over of NAT sessions: one figure a line."""
    _lines(console, "Handing NAT sessions over, from the question to the last record written", found, committed)


def _lines(console: Console, title: str, found: Mapping[str, Any], committed: Any) -> None:
    made = _table(title, "", "now", "was")
    for (name, value), (_, old) in zip(_flat(found), _flat_like(found, committed), strict=True):
        made.add_row(name, _text(value), _text(old))
    console.print(made)


def scale(console: Console, rows: Rows, committed: Rows) -> None:
    """Print part 5."""
    made = _table(
        "The agent in a large cluster (CPU: share of one; late: p99.9 of its loop, control: of a bare one)",
        "members x services x routers", "first fill s", "was", "rest CPU", "was", "change s", "was", "churn CPU",
        "late ms", "control", "MB", "was",
    )  # fmt: skip
    keys = ("members", "services", "routers")
    for row in rows:
        old = {
            name: committed_figure(committed, keys, row, name) for name in ("first_fill_s", "rest_cpu", "resident_mb")
        }
        cells = (
            row["first_fill_s"], old["first_fill_s"], row["rest_cpu"], old["rest_cpu"], row["change_s"]["median"],
            committed_figure(committed, keys, row, "change_s", "median"), row["churn_cpu"], row["late_ms_p999"],
            row["control_late_ms_p999"], row["resident_mb"], old["resident_mb"],
        )  # fmt: skip
        made.add_row(" x ".join(str(row[key]) for key in keys), *map(_text, cells))
    console.print(made)


def connections(console: Console, rows: Rows, committed: Rows) -> None:
    """Print part 7."""
    made = _table(
        "Counting the connections that a node holds (late: p99.9 of the loop meanwhile, control: beside a thread that "
        "sleeps)",
        "sockets", "number", "services", "CPU ms", "median", "was", "us each", "late ms", "control", "peak MB",
    )  # fmt: skip
    for row in rows:
        old = committed_figure(committed, ("kind", "sockets"), row, "cpu_ms", "median")
        cpu_ms = row["cpu_ms"]
        each_us = round(cpu_ms["median"] / row["sockets"] * 1e3, 2)
        cells = row["sockets"], row["services"], cpu_ms["min"], cpu_ms["median"], old, each_us
        late = row["late_ms_p999"], row["control_late_ms_p999"], row["peak_mb"]
        made.add_row(row["kind"], *map(_text, (*cells, *late)))
    console.print(made)


def sessions(console: Console, found: Mapping[str, Any], committed: Any) -> None:
    """Print part 8."""
    was = committed or {"work": []}
    made = _table(
        f"NAT sessions in the agent, which takes {found['rest_cpu']:.1%} of a core at rest (late: as above)",
        "work", "sessions", "CPU ms", "median", "was", "us each", "late ms", "control",
    )  # fmt: skip
    for row in found["work"]:
        cpu_ms = row["cpu_ms"]
        old = committed_figure(was["work"], ("work", "sessions"), row, "cpu_ms", "median")
        each_us = round(cpu_ms["median"] / row["sessions"] * 1e3, 3)
        late = row["late_ms_p999"], row["control_late_ms_p999"]
        made.add_row(row["work"], *map(_text, (row["sessions"], cpu_ms["min"], cpu_ms["median"], old, each_us, *late)))
    console.print(made)


def _flat(found: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    lines = []
    for name, value in found.items():
        lines += _flat(value, f"{above}{name} ") if isinstance(value, Mapping) else [(f"{above}{name}", value)]
    return lines


def _flat_like(found: Mapping[str, Any], other: Any) -> list[tuple[str, Any]]:
    known = dict(_flat(other)) if isinstance(other, Mapping) else {}
    return [(name, known.get(name)) for name, _ in _flat(found)]


PARTS: dict[str, Callable[[Console, Any, Any], None]] = {
    "xdp": xdp,
    "nat": nat,
    "frames": frames,
    "system": system,
    "table": table,
    "daemon": daemon,
    "scale": scale,
    "drain": drain,
    "connections": connections,
    "sessions": sessions,
    "hand_over": hand_over,
    "scrape": scrape,
}


def targets(console: Console, found: Mapping[str, Any]) -> None:
    """Print the targets, and whether they are met."""
    made = _table("Targets", "", "limit", "now", "")
    for target in judge_targets(found):
        limit = f"{'<=' if target.at_most else '>='} {target.limit:g}"
        made.add_row(target.what, limit, _text(target.value), "yes" if target.met else "[bold red]no[/]")
    console.print(made)


def show(console: Console, figures: Mapping[str, Any], committed: Mapping[str, Any]) -> None:
    """Print all parts that were measured."""
    for name, part in PARTS.items():
        if name in figures:
            console.print()
            part(console, figures[name], committed.get(name) or [])
    console.print()
    targets(console, figures)
