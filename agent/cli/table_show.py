# SPDX-License-Identifier: Apache-2.0
"""lbctl table: who owns the rows of each service, what a removal of nodes would change, and whether rows are equal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, BinaryIO

import click

from agent.cli import names
from agent.cli.options import EXIT_DIFFERS, as_of_diff, output_option, request, show, socket_option
from agent.cli.table import Table, print_line, printer

service_option = click.option(
    "--service", metavar="NAME", shell_complete=names.services, help="One service; without it, all of this node."
)


@click.group()
def table() -> None:
    """The rows of each service's table, and their owners."""


@table.command("show")
@click.option("--rows", "all_rows", is_flag=True, help="Each row in the kernel, owner first, in place of counts.")
@service_option
@socket_option
@output_option
def table_show(all_rows: bool, service: str | None, socket: Path, output: str) -> None:
    """Show how many rows each member owns.

    With --rows -o json it prints an object a line for each service, which `lbctl table diff FILE` on another node
    reads.
    """
    if all_rows:
        from agent.cli.table_rows import print_rows

        print_rows(socket, service, output)
    else:
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
@click.argument("file", type=click.File("rb"), required=False)
@service_option
@socket_option
@output_option
def diff(file: BinaryIO | None, service: str | None, socket: Path, output: str) -> None:
    """Compare the rows here with the members, or another node's.

    Without FILE: what the kernel has beside what the members make now.

    The chain of each row of new connections' epoch, read back from the kernel, beside what this node computes of its
    members; nodes that only claim a row are left out. After a change of members they differ for less than a second.
    Exit codes as of diff(1): 0 equal, 1 different, 2 the agent refuses, or FILE has no rows.

    With FILE (- for standard input): the chains in this node's kernel beside those in another's, which
    `lbctl table show --rows -o json` has printed there. From b1: `ssh b2 lbctl table show --rows -o json | lbctl table
    diff -`.
    """
    with as_of_diff():
        if file is not None:
            from agent.cli.table_rows import diff_with

            equal = diff_with(file, socket, service, output)
        else:
            found = request(socket, "GET", "/table/diff", **({} if service is None else {"service": service}))
            show(found, output, _print_diff)
            equal = found["equal"]
    sys.exit(0 if equal else EXIT_DIFFERS)


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
    more = ["rows after", "share after"] if removal else []
    shown = Table("service", "member", "rows", "share", *more, elide="service")
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
