# SPDX-License-Identifier: Apache-2.0
"""lbctl's commands about the node as a whole: status, explain, drain, undrain, leave."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from agent.cli import names
from agent.cli.check import CONDITIONS, wait_for
from agent.cli.options import (
    EXIT_NOT_IN_TIME,
    WholeNumber,
    force_option,
    output_option,
    request,
    seconds,
    show,
    socket_option,
)

LIVE_TIMEOUT_S = 20.0
"""Each of up to ten nodes may take a second."""


@click.command()
@click.option("--brief", is_flag=True, help="What fails, and how many VIPs, services, members and sessions are well.")
@click.option(
    "--wait", is_flag=False, flag_value="healthy", type=click.Choice(CONDITIONS),
    help="First wait until the node forwards (ready), some router has each VIP (announced), or `lbctl check` is OK "
    "(healthy, the default).",
)  # fmt: skip
@click.option(
    "--timeout", "timeout_s", callback=seconds, default="60s", show_default=True, metavar="TIME",
    help="With --wait: its time limit; exit code 4 if it is not in time.",
)  # fmt: skip
@socket_option
@output_option
def status(brief: bool, wait: str | None, timeout_s: float, socket: Path, output: str) -> None:
    """Show this node, its services and all members.

    What fails comes first. In a pipe, each thing has one line, without color.
    """
    from agent.cli.status_display import print_brief, print_status

    if wait is not None and (missing := wait_for(socket, wait, timeout_s)) is not None:
        click.echo(f"lbctl: not {wait} within {timeout_s:g} s: {missing}", err=True)
        sys.exit(EXIT_NOT_IN_TIME)
    show(request(socket, "GET", "/status"), output, print_brief if brief else print_status)


@click.command()
@click.argument("flow", metavar="TUPLE")
@click.option("--live", is_flag=True, help="Ask each node on the way: where a packet goes now, and where it ends.")
@click.option(
    "--at",
    metavar="ADDRESS",
    shell_complete=names.nodes,
    help="With --live: the node that the router sends it to, by default this one.",
)
@socket_option
@output_option
def explain(flow: str, live: bool, at: str | None, socket: Path, output: str) -> None:
    """Show a flow's row and chain, and each node's decision.

    TUPLE is `tcp CLIENT:PORT VIP:PORT`, as one argument or joined by commas: tcp,192.0.2.7:41000,10.99.0.1:443. With
    NAT also what a backend sees as the client, 10.255.0.3:40000.
    """
    from agent.cli.client import call_within
    from agent.cli.display import print_explanation
    from agent.cli.walk_display import print_walks

    if at is not None and not live:
        raise click.UsageError("--at requires --live")
    if live:
        query = {"tuple": flow} | ({"at": at} if at else {})
        show(call_within(socket, "GET", "/explain/live", LIVE_TIMEOUT_S, query), output, print_walks)
    else:
        show(request(socket, "GET", "/explain", tuple=flow), output, print_explanation)


@click.command()
@force_option
@click.option("--wait", is_flag=True, help="Return once the connections that are open here are closed.")
@click.option(
    "--until-below", type=WholeNumber(min=1), metavar="N",
    help="With --wait: return once fewer than N are open, by default none.",
)  # fmt: skip
@click.option(
    "--timeout", "timeout_s", callback=seconds, metavar="TIME",
    help="With --wait: its time limit; exit code 4 if connections are left. By default there is none.",
)  # fmt: skip
@socket_option
@output_option
def drain(
    force: bool, wait: bool, until_below: int | None, timeout_s: float | None, socket: Path, output: str
) -> None:  # fmt: skip
    """Take no new connections, leave the ECMP set.

    Open connections stay; `lbctl connections` counts them. The node stays drained if the wait ends early.
    """
    from agent.cli.connections import wait_until_below

    for name, value in (("--until-below", until_below), ("--timeout", timeout_s)):
        if value is not None and not wait:
            raise click.UsageError(f"{name} requires --wait")
    response = request(socket, "POST", "/drain", **({"force": "yes"} if force else {}))
    if not wait:
        show(response, output, lambda _: click.echo("draining"))
        return
    held, in_time = wait_until_below(socket, until_below or 1, timeout_s)
    if not in_time:
        click.echo(
            f"lbctl: not within {timeout_s:g} s: {held:,} connections are open; the node stays drained", err=True
        )
        sys.exit(EXIT_NOT_IN_TIME)
    show(response | {"held": held}, output, lambda _: click.echo(f"drained, {held:,} connections are open"))


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
