# SPDX-License-Identifier: Apache-2.0
"""lbctl cluster: every member by its own account, asked from this node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from agent.cli.options import interval_option, output_option, request, show, socket_option


@click.command()
@interval_option
@socket_option
@output_option
def cluster(interval_s: float, socket: Path, output: str) -> None:
    """Show every member by its own account, asked from this node.

    BGP sessions up, VIPs announced and services healthy, of all; how many faults `lbctl check` finds there, and the
    first of them; packets per second from routers and forwarded, in parentheses the node's part of all nodes';
    connections held; drops if there are any. Below: nodes that announce and get nothing, and nodes whose kernels reset
    connections. A node that is silent, or of a release that does not know the question, is shown as such.

    Counts from 10,000 on have three digits, `12.3k`, and in 80 columns states and loads may be a table each: -o json
    has full counts, a pipe one row for each member.
    """
    from agent.cli.table import print_line, printer, width

    @printer
    def show_lines(report: dict[str, Any]) -> None:
        from agent.cli.cluster_display import cluster_lines

        for line in cluster_lines(report, width()):
            print_line(line)

    show(next(reports(socket, interval_s)), output, show_lines)


def reports(socket: Path, interval_s: float) -> Iterator[dict[str, Any]]:
    """Yield reports of the cluster with rates over the interval, again and again."""
    from agent.cli.cluster_display import with_rates

    before = request(socket, "GET", "/cluster")
    while True:
        time.sleep(interval_s)
        after = request(socket, "GET", "/cluster")
        yield with_rates(before, after)
        before = after
