# SPDX-License-Identifier: Apache-2.0
"""lbctl lab: containerlab files as network namespaces on this machine (topology)."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

import click

from agent.cli.options import output_option
from bgp.printable import escaped

file_argument = click.argument("file", type=click.Path(path_type=Path))
name_option = click.option("--name", metavar="NAME", help="The lab's name, if not the file's.")


@click.group()
def lab() -> None:
    """Containerlab topologies as network namespaces."""


@lab.command()
@file_argument
@name_option
@click.option("--reconfigure", is_flag=True, help="Take a lab of that name down first.")
@click.option("--keep-failed", is_flag=True, help="Leave the lab up for inspection if an exec line fails.")
def up(file: Path, name: str | None, reconfigure: bool, keep_failed: bool) -> None:
    """Bring the lab of FILE up.

    First nodes, then links, then each node's exec lines. These and the nodes' commands run as root, and see this
    machine's files: bring up only files that you trust.
    """
    from topology.lab import clab
    from topology.lab.lab import Lab

    for warning in clab.load(file, os.environ).warnings:
        click.echo(escaped(f"warning: {warning}"), err=True)
    made = Lab.up(file, name, reconfigure=reconfigure, keep_failed=keep_failed)
    which = shlex.quote(str(file)) if name is None else f"--name {name} {shlex.quote(str(file))}"
    click.echo(f"{made.name}: {', '.join(made.nodes)} are up; `lbctl lab exec {which} NODE COMMAND` runs in one")


@lab.command()
@file_argument
@name_option
def down(file: Path, name: str | None) -> None:
    """Take the lab of FILE down.

    Also one that is up in part.
    """
    from topology.lab.lab import Lab

    found = name or _name(file)
    click.echo(f"{found}: {'down' if Lab.remove(found) else 'was not up'}")


@lab.command("exec", context_settings={"allow_interspersed_args": False})
@file_argument
@name_option
@click.argument("node")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(file: Path, name: str | None, node: str, command: tuple[str, ...]) -> None:
    """Run COMMAND in NODE of the lab of FILE.

    Its exit code is lbctl's, or 128 and the signal that ended it. What follows FILE is no option of lbctl's, but of
    COMMAND.
    """
    from topology.lab.lab import Lab

    code = Lab.find(name or _name(file)).attach(node, command)
    sys.exit(code if code >= 0 else 128 - code)


@lab.command()
@file_argument
@name_option
@output_option
def inspect(file: Path, name: str | None, output: str) -> None:
    """Show the nodes of the lab of FILE.

    With their processes and interfaces.
    """
    from agent.cli.display import print_lab
    from topology.lab.lab import Lab

    data = Lab.find(name or _name(file)).inspect()
    if output == "json":
        click.echo(json.dumps(data, indent=2))
    else:
        print_lab(data)


def _name(file: Path) -> str:
    from topology.lab import clab

    return clab.load(file, os.environ).name
