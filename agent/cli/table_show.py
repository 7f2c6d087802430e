# SPDX-License-Identifier: Apache-2.0
"""lbctl table: who owns the rows of each service, and what a removal of nodes would change."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from agent.cli import names
from agent.cli.options import output_option, request, show, socket_option
from agent.cli.table import Table, print_line, printer

EXIT_DIFFERS = 1

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


@table.command()
@service_option
@socket_option
@output_option
def diff(service: str | None, socket: Path, output: str) -> None:
    """Compare the kernel's rows with what the members make now.

    The chain of each row of new connections' epoch, read back from the kernel, beside what this node computes of its
    members; nodes that only claim a row are left out. Exit codes as of diff(1): 0 equal, 1 different. After a change of
    members they differ for less than a second.
    """
    found = request(socket, "GET", "/table/diff", **({} if service is None else {"service": service}))
    show(found, output, _print_diff)
    sys.exit(0 if found["equal"] else EXIT_DIFFERS)


@printer
def _print_diff(response: dict[str, Any]) -> None:
    for one in response["services"]:
        if not one["differing"]:
            print_line(f"{one['name']}: all {one['rows']:,} rows in the kernel are what the members make")
            continue
        counts = (
            f"{one['differing']:,} of {one['rows']:,} rows differ, {one['owners_differing']:,} of them in their owner"
        )
        print_line(f"{one['name']}: {counts}")
        shown = Table("row", "in the kernel", "as computed")
        for row in one["shown"]:
            shown.add_row(f"{row['row']:,}", *(" → ".join(row[of]) or "empty" for of in ("kernel", "computed")))
        shown.print()
        if (more := one["differing"] - len(one["shown"])) > 0:
            print_line(f"and {more:,} more")
    if not response["equal"]:
        print_line("run it again: if they still differ, see `lbctl status` and the agent's log")


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
