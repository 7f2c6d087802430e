# SPDX-License-Identifier: Apache-2.0
"""lbctl's commands about the node as a whole: status, explain, drain, undrain, leave."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli.options import force_option, output_option, request, show, socket_option


@click.command()
@socket_option
@output_option
def status(socket: Path, output: str) -> None:
    """Show this node, its services and all members."""
    from agent.cli.display import print_status

    show(request(socket, "GET", "/status"), output, print_status)


@click.command()
@click.argument("flow", metavar="TUPLE")
@socket_option
@output_option
def explain(flow: str, socket: Path, output: str) -> None:
    """Show a flow's row and chain, and each node's decision.

    TUPLE is `tcp CLIENT:PORT VIP:PORT`, as one argument or joined by commas: tcp,192.0.2.7:41000,10.99.0.1:443
    """
    from agent.cli.display import print_explanation

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
