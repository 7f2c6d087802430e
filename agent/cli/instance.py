# SPDX-License-Identifier: Apache-2.0
"""lbctl instance: the server processes of this node that share a service."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli import names
from agent.cli.options import WholeNumber, output_option, request, show, socket_option

service_option = click.option(
    "--service",
    metavar="NAME",
    shell_complete=names.services,
    help="The service; required only if several of this node have instances.",
)
name_argument = click.argument("name", metavar="INSTANCE", shell_complete=names.instances)


@click.group()
def instance() -> None:
    """The server processes of this node that share a port."""


@instance.command("list")
@socket_option
@output_option
def instance_list(socket: Path, output: str) -> None:
    """Show each service's instances, the primary first."""
    from agent.cli.display import print_instances

    show(request(socket, "GET", "/instances"), output, print_instances)


def _change(socket: Path, output: str, action: str, service: str | None, **query: str) -> None:
    from agent.cli.display import print_instances

    if service is not None:
        query["service"] = service
    show(request(socket, "POST", f"/instances/{action}", **query), output, print_instances)


@instance.command("switch")
@name_argument
@service_option
@socket_option
@output_option
def instance_switch(name: str, service: str | None, socket: Path, output: str) -> None:
    """Have new connections go to an instance.

    For as long as it listens, or until another switch. Open connections stay where they are.
    """
    _change(socket, output, "switch", service, name=name)


@instance.command("drain")
@name_argument
@service_option
@socket_option
@output_option
def instance_drain(name: str, service: str | None, socket: Path, output: str) -> None:
    """Give an instance no new connections.

    Open connections stay. If all instances are drained, the kernel chooses among them.
    """
    _change(socket, output, "drain", service, name=name)


@instance.command("undrain")
@name_argument
@service_option
@socket_option
@output_option
def instance_undrain(name: str, service: str | None, socket: Path, output: str) -> None:
    """Give an instance new connections again."""
    _change(socket, output, "undrain", service, name=name)


@instance.command("weight")
@name_argument
@click.argument("weight", type=WholeNumber(0, 10_000))
@service_option
@socket_option
@output_option
def instance_weight(name: str, weight: int, service: str | None, socket: Path, output: str) -> None:
    """Set an instance's weight, with policy weighted.

    It persists over restarts of the agent and of the instance.
    """
    _change(socket, output, "weight", service, name=name, weight=str(weight))


@instance.command("add")
@click.option(
    "--pid", type=WholeNumber(1), required=True, metavar="PID", help="The process; its children belong to it."
)
@click.option("--name", metavar="INSTANCE", help="A name for it, by default pid-PID.")
@service_option
@socket_option
@output_option
def instance_add(pid: int, name: str | None, service: str | None, socket: Path, output: str) -> None:
    """Make a process an instance, after all others in the order."""
    _change(socket, output, "add", service, pid=str(pid), **({"name": name} if name else {}))


@instance.command("remove")
@name_argument
@service_option
@socket_option
@output_option
def instance_remove(name: str, service: str | None, socket: Path, output: str) -> None:
    """Forget an instance that was added by hand.

    It gets new connections only while no other instance listens.
    """
    _change(socket, output, "remove", service, name=name)
