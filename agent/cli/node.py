# SPDX-License-Identifier: Apache-2.0
"""lbctl's commands about the node as a whole: status, explain, drain, undrain, leave."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli.options import force_option, output_option, request, show, socket_option

LIVE_TIMEOUT_S = 20.0
"""Each of up to ten nodes may take a second."""


@click.command()
@socket_option
@output_option
def status(socket: Path, output: str) -> None:
    """Show this node, its services and all members."""
    from agent.cli.display import print_status

    show(request(socket, "GET", "/status"), output, print_status)


@click.command()
@click.argument("flow", metavar="TUPLE")
@click.option("--live", is_flag=True, help="Ask each node on the way: where a packet goes now, and where it ends.")
@click.option("--at", metavar="ADDRESS", help="With --live: the node that the router sends it to, by default this one.")
@socket_option
@output_option
def explain(flow: str, live: bool, at: str | None, socket: Path, output: str) -> None:
    """Show a flow's row and chain, and each node's decision.

    TUPLE is `tcp CLIENT:PORT VIP:PORT`, as one argument or joined by commas: tcp,192.0.2.7:41000,10.99.0.1:443
    """
    from agent.cli.client import call_within
    from agent.cli.display import print_explanation
    from agent.cli.walk import print_walks

    if at is not None and not live:
        raise click.UsageError("--at requires --live")
    if live:
        query = {"tuple": flow} | ({"at": at} if at else {})
        show(call_within(socket, "GET", "/explain/live", LIVE_TIMEOUT_S, query), output, print_walks)
    else:
        show(request(socket, "GET", "/explain", tuple=flow), output, print_explanation)


@click.command()
@force_option
@socket_option
@output_option
def drain(force: bool, socket: Path, output: str) -> None:
    """Take no new connections, leave the ECMP set.

    Open connections stay.
    """
    _change(socket, output, "/drain", "draining", force)


@click.command()
@socket_option
@output_option
def undrain(socket: Path, output: str) -> None:
    """Take new connections again: reverts drain and leave."""
    _change(socket, output, "/undrain", "up")


@click.command()
@force_option
@socket_option
@output_option
def leave(force: bool, socket: Path, output: str) -> None:
    """Leave every chain, after a drain.

    Connections that are still open here break.
    """
    _change(socket, output, "/leave", "left", force)


def _change(socket: Path, output: str, resource: str, state: str, force: bool = False) -> None:
    query = {"force": "yes"} if force else {}
    show(request(socket, "POST", resource, **query), output, lambda _: click.echo(state))
