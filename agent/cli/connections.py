# SPDX-License-Identifier: Apache-2.0
"""lbctl connections, and the wait of `lbctl drain` for the connections that are open here."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from agent.cli.backend import service_option
from agent.cli.options import output_option, request, show, socket_option
from agent.cli.table import steers
from agent.errors import NotRunningError
from agent.time_text import age
from bgp.printable import escaped

POLL_S = 2.0
"""The agent counts no more often."""
RESTART_S = 30.0
"""How long no agent may answer while one waits: it may be restarted meanwhile."""
_COLUMNS = {"held": "held", "owned": "owned", "later": "later", "not_in_chain": "not in chain"}


@click.command()
@service_option
@socket_option
@output_option
def connections(service: str | None, socket: Path, output: str) -> None:
    """Show how many connections of clients this node holds.

    TCP in any state but LISTEN and TIME-WAIT, and UDP sockets that are connected to a client. By this node's place in
    the chains of their rows: `owned` has place 0, which new flows of the row take too; `later` is any other place;
    `not in chain` are those that the other nodes do not find. The kernel does not record how old a connection is: it
    is at least as old as the agent's first count that found it.
    """
    query = {} if service is None else {"service": service}
    show(request(socket, "GET", "/connections", **query), output, print_connections)


def print_connections(response: dict[str, Any]) -> None:
    """Print a line for each service, and the sum."""
    lines = [["service", "VIP", *_COLUMNS.values(), "oldest, at least"]]
    for one in response["services"]:
        numbers = ["-" if one[name] is None else f"{one[name]:,}" for name in _COLUMNS]
        oldest = "-" if one["oldest_s"] is None else age(one["oldest_s"])
        lines.append([f"{one['name']} {one['protocol']}", one["endpoint"], *numbers, oldest])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, endpoint, *numbers in lines:
        cells = [name.ljust(widths[0]), endpoint.ljust(widths[1])]
        cells += [number.rjust(width) for number, width in zip(numbers, widths[2:], strict=True)]
        click.echo(escaped("  ".join(cells)))
    if len(response["services"]) > 1:
        click.echo(f"{response['held']:,} in all")


def wait_until_below(socket: Path, limit: int, timeout_s: float | None) -> tuple[int, bool]:
    """Wait until this node holds fewer connections than `limit`; return how many, and whether that was in time.

    Two counts in a row must be below: the first may be older than the drain. Shows the progress on a terminal. Raises
    NotRunningError if no agent answers for `RESTART_S`.
    """
    began = answered_at = time.monotonic()
    below, terminal = 0, _on_terminal()
    while True:
        try:
            held = int(request(socket, "GET", "/connections")["held"])
            answered_at = time.monotonic()
            below = below + 1 if held < limit else 0
            if terminal:
                click.echo(f"\r{held:,} connections after {answered_at - began:.0f} s\x1b[K", nl=False, err=True)
            late = timeout_s is not None and answered_at + POLL_S - began > timeout_s
            if below == 2 or late:
                if terminal:
                    click.echo(err=True)
                return held, below == 2
        except NotRunningError:
            if time.monotonic() - answered_at > RESTART_S:
                raise
        time.sleep(POLL_S)


def _on_terminal() -> bool:
    return steers(sys.stderr)
