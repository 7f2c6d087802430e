# SPDX-License-Identifier: Apache-2.0
"""Text and JSON of each row in the kernel, and of two nodes' rows side by side, for lbctl table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, BinaryIO

import click

from agent.cli.member_display import some_of
from agent.cli.options import request, show
from agent.cli.table import Table, print_line, printer
from agent.table.node_rows import NodeRows, compare, from_json
from bgp.printable import escaped

NEXT = (
    "next: run on both nodes `lbctl table diff`, which shows whether the kernel has other rows than the node computes, "
    "and `lbctl status`, which shows what the node believes of each member"
)

GIVE = "give what `lbctl table show --rows -o json` prints"
MAX_LINE = 1 << 25
"""Bytes of a line: 262,144 rows of 8 places have less than half of it."""


def rows_here(socket: Path, service: str | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of each service of this node, as JSON, or of one. Raises as `request` does."""
    names = [service] if service else request(socket, "GET", "/table/rows")["services"]
    for name in names:
        yield request(socket, "GET", "/table/rows", service=name)


def print_rows(socket: Path, service: str | None, output: str) -> None:
    """Print each row of each service: an object a line, or a row a line."""
    for one in rows_here(socket, service):
        if output == "json":
            click.echo(json.dumps(one, separators=(",", ":")))
        else:
            nodes = [*one["nodes"], "none"]  # the last is place -1
            rows = (" → ".join(nodes[place] for place in row) or "empty" for row in one["rows"])
            click.echo("\n".join(f"{one['name']} {number}: {row}" for number, row in enumerate(rows)))


def diff_with(file: BinaryIO, socket: Path, service: str | None, output: str) -> bool:
    """Print how the rows of this node differ from those in a file; return whether they are equal.

    Raises BadParameter if the file has no such rows.
    """
    there = _read(file)
    other = next(iter(there.values())).node
    found = []
    for value in rows_here(socket, service):
        here = from_json(value)
        found.append({"name": here.name, "key": here.key} | _compared(here, there.pop(here.key, None), other))
    if service is None:
        found += [
            {"name": one.name, "key": one.key, "equal": False, "why": f"only {other} has rows of it", "found": None}
            for one in there.values()
        ]
    equal = all(one["equal"] for one in found)
    show({"there": str(other), "equal": equal, "services": found}, output, _print)
    return equal


def _compared(here: NodeRows, there: NodeRows | None, other: IPv4Address) -> dict[str, Any]:
    """Return what a service's entry has beside its name: `why` if no rows can be compared, else `found`."""
    if there is None:
        return {"equal": False, "why": f"only {here.node} has rows of it, not {other}", "found": None}
    try:
        found = compare(here, there)
    except ValueError as error:
        return {"equal": False, "why": f"{error}: all rows may differ", "found": None}
    return {"equal": not found["differing"], "why": None, "found": found}


def _read(file: BinaryIO) -> dict[str, NodeRows]:
    """Return the services in a file, a line each, by their keys. Raises BadParameter."""
    found: dict[str, NodeRows] = {}
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
        if problem := _add(line, found):
            raise click.BadParameter(f"{file.name}:{number}: {problem}")
    if not found:
        raise click.BadParameter(f"{file.name} is empty: {GIVE}")
    return found


def _add(line: bytes, found: dict[str, NodeRows]) -> str | None:
    """Add a line's service; return what is wrong if the line is no service that belongs to those before it."""
    if len(line) > MAX_LINE:
        return f"has a line of more than {MAX_LINE:,} bytes: {GIVE}"
    try:
        one = from_json(json.loads(line))
    except (ValueError, RecursionError) as error:
        return f"no rows of a service ({error}): {GIVE}"
    if any(one.node != other.node for other in found.values()):
        return "has rows of a second node; give those of one"
    if one.key in found:
        return f"has the rows of {escaped(one.key)} again; give each service once"
    found[one.key] = one
    return None


@printer
def _print(response: dict[str, Any]) -> None:
    there = response["there"]
    for one in response["services"]:
        print_line(f"{one['name']}: {one['why'] or _summary(one['found'], there)}")
        if not one["equal"] and one["found"]:
            _print_rows(one["found"], there)
    if not response["equal"]:
        print_line(NEXT)


def _summary(found: dict[str, Any], there: str) -> str:
    claims = found["claimants_differing"]
    more = f"; {claims:,} differ in nodes that only claim them" if claims else ""
    if not found["differing"]:
        return f"all {found['rows']:,} rows are those of {there}{more}"
    owners = f"{found['owners_differing']:,} of them in their owner"
    return f"{found['differing']:,} of {found['rows']:,} rows differ from those of {there}, {owners}{more}"


def _print_rows(found: dict[str, Any], there: str) -> None:
    for nodes, where in ((found["only_here"], "here"), (found["only_there"], f"on {there}")):
        if nodes:
            print_line(f"in rows {where} only: {some_of(nodes)}")
    owners = Table("owner here", f"owner on {there}", "rows")
    for one in found["owners"]:
        owners.add_row(one["here"] or "none", one["there"] or "none", f"{one['rows']:,}")
    if found["owners"]:
        owners.print()
    rows = Table("row", "here", f"on {there}")
    for one in found["shown"]:
        rows.add_row(f"{one['row']:,}", *(" → ".join(one[where]) or "empty" for where in ("here", "there")))
    rows.print()
    if (more := found["differing"] - len(found["shown"])) > 0:
        print_line(f"and {more:,} more rows")
