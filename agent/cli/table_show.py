# SPDX-License-Identifier: Apache-2.0
"""lbctl table: who owns the rows of each service, and what a removal of nodes would change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from agent.cli import names
from agent.cli.options import output_option, request, show, socket_option
from agent.cli.table import Table, print_line, printer

service_option = click.option(
    "--service", metavar="NAME", shell_complete=names.services, help="One service; without it, all of this node."
)


@click.group()
def table() -> None:
    """The rows of each service's table, and their owners."""


@table.command("show")
@service_option
@socket_option
@output_option
def table_show(service: str | None, socket: Path, output: str) -> None:
    """Show how many rows each member owns."""
    query = {} if service is None else {"service": service}
    show(request(socket, "GET", "/table", **query), output, _print)


@table.command()
@click.option(
    "--remove",
    "removed",
    multiple=True,
    required=True,
    metavar="ADDRESS",
    shell_complete=names.nodes,
    help="A node; may be repeated.",
)
@service_option
@socket_option
@output_option
def simulate(removed: tuple[str, ...], service: str | None, socket: Path, output: str) -> None:
    """Show what the removal of nodes would change.

    The rows that get another owner, and connections of this node that the others would not find by their chains:
    they break without `table.claims`. A removed node ends its own unless it is drained first: ask it too.
    """
    query = {"remove": ",".join(removed)} | ({} if service is None else {"service": service})
    show(request(socket, "GET", "/table", **query), output, _print)


@printer
def _print(response: dict[str, Any]) -> None:
    removal = bool(response["removed"])
    shown = Table("service", "member", "rows", "share", *(["rows after", "share after"] if removal else []))
    for service in response["services"]:
        for one in service["members"]:
            after = [f"{one['rows_after']:,}", f"{one['rows_after'] / service['rows']:.1%}"] if removal else []
            share = f"{one['rows'] / service['rows']:.1%}"
            shown.add_row(service["name"], one["address"], f"{one['rows']:,}", share, *after)
    shown.print()
    for service in response["services"] if removal else ():
        risk = "not counted yet" if service["at_risk_here"] is None else f"{service['at_risk_here']:,}"
        print_line(
            f"{service['name']}: {service['moved']:,} of {service['rows']:,} rows move; connections of this node "
            f"at risk: {risk}"
        )
