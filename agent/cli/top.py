# SPDX-License-Identifier: Apache-2.0
"""lbctl top and lbctl drops: what this node's data path does now, by service; and why it drops packets."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from agent.cli.cluster import reports
from agent.cli.options import interval_option, output_option, request, socket_option
from agent.cli.rates import Drop, Load, loads, total
from agent.cli.rates import drops as drops_of
from agent.cli.table import Table, shortened, steers, width
from bgp.printable import escaped

_CLEAR = "\x1b[H\x1b[2J"


@click.command()
@click.option("--once", is_flag=True, help="Print the rates once, and end.")
@click.option("--cluster", "of_cluster", is_flag=True, help="Each member in place of each service of this node.")
@interval_option
@socket_option
@output_option
def top(once: bool, of_cluster: bool, interval_s: float, socket: Path, output: str) -> None:
    """Show live rates of each service here, or of each member.

    Packets per second that come from routers and from other nodes, are forwarded and dropped; new connections; those
    that are held, as of the last count. With --cluster each node is asked for its own; in parentheses its part of what
    routers send to all nodes, and of what all forward. Ends by Ctrl-C (exit code 0). With -o json, one object a line.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have SIGINT ignored in the background
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        for found, lines in (_of_cluster if of_cluster else _of_node)(socket, interval_s):
            if output == "json":
                click.echo(json.dumps(found))
            else:
                clear = _CLEAR if steers(sys.stdout) and not once else ""
                click.echo(clear + "\n".join(lines))
            if once:
                return


@click.command()
@interval_option
@socket_option
@output_option
def drops(interval_s: float, socket: Path, output: str) -> None:
    """Show why this node drops packets, with rates.

    Each reason with what it means and what to do; docs/counters.md has them all. Reasons that never occurred since the
    program was attached are left out.
    """
    before, after, took_s = next(_pairs(socket, interval_s))
    found = drops_of(before, after, took_s)
    if output == "json":
        click.echo(json.dumps({"drops": [one._asdict() for one in found]}, indent=2))
    else:
        click.echo("\n".join(_drop_lines(found)))


def _of_node(socket: Path, interval_s: float) -> Iterator[tuple[dict[str, Any], list[str]]]:
    for before, after, took_s in _pairs(socket, interval_s):
        found = list(loads(before, after, took_s))
        yield {"services": [one._asdict() for one in found], "node": total(found)._asdict()}, _load_lines(found)


def _of_cluster(socket: Path, interval_s: float) -> Iterator[tuple[dict[str, Any], list[str]]]:
    from agent.cli.cluster_display import load_lines

    for report in reports(socket, interval_s):
        yield report, list(load_lines(report, width()))


def _pairs(socket: Path, interval_s: float) -> Iterator[tuple[dict[str, Any], dict[str, Any], float]]:
    """Yield two statuses, and the seconds between them, again and again."""
    before, began = request(socket, "GET", "/status"), time.monotonic()
    while True:
        time.sleep(interval_s)
        after, now = request(socket, "GET", "/status"), time.monotonic()
        yield before, after, now - began
        before, began = after, now


def _load_lines(found: list[Load]) -> list[str]:
    table = Table("service", "routers/s", "nodes/s", "new/s", "forwarded/s", "dropped/s", "held", elide="service")
    for one in (*found, *([total(found)] if len(found) != 1 else [])):
        held = "-" if one.connections is None else shortened(one.connections)
        table.add_row(escaped(one.service), *map(shortened, one[1:6]), held)
    return table.lines(width())


def _drop_lines(found: list[Drop]) -> list[str]:
    from bpf.layout.counter import DESCRIPTIONS, Counter

    if not found:
        return ["no packet was dropped since the program was attached"]
    table = Table("reason", "service", "now/s", "in all", "meaning, and what to do", elide="service")
    for one in found:
        about = DESCRIPTIONS.get(Counter[one.event.upper()]) if one.event.upper() in Counter.__members__ else None
        text = f"{about.meaning} {about.action}" if about else "This lbctl does not know it: see the agent's release."
        table.add_row(one.event, escaped(one.service), shortened(one.per_s), shortened(one.total), text)
    return table.lines(width())
