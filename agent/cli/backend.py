# SPDX-License-Identifier: Apache-2.0
"""lbctl backend: the members of each service, and this node's part in them."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli.options import ask, output_option, show, socket_option

service_option = click.option("--service", help="One service, by its name; all of this node's without it.")


@click.group()
def backend() -> None:
    """This node as a member: what it takes of each service. Its announcements stay (see `lbctl announce`)."""


@backend.command("list")
@socket_option
@output_option
def backend_list(socket: Path, output: str) -> None:
    """Show each service's members with their states and weights, as this node believes them."""
    from agent.cli.display import print_backends

    answer = ask(socket, "GET", "/status")
    own = answer["node"]["address"]
    backends = [
        {"service": service["name"], **member, "this_node": member["address"] == own}
        for service in answer["services"]
        for member in service["members"]
    ]
    show({"backends": backends}, output, print_backends)


def _set(socket: Path, output: str, service: str | None, **query: str) -> None:
    from agent.cli.display import print_own_backends

    if service is not None:
        query["service"] = service
    show(ask(socket, "POST", "/backend", **query), output, print_own_backends)


@backend.command("drain")
@service_option
@socket_option
@output_option
def backend_drain(service: str | None, socket: Path, output: str) -> None:
    """Take no new connections here; keep the open ones, and go on forwarding and announcing for the others."""
    _set(socket, output, service, drained="yes")


@backend.command("undrain")
@service_option
@socket_option
@output_option
def backend_undrain(service: str | None, socket: Path, output: str) -> None:
    """Take new connections again."""
    _set(socket, output, service, drained="no")


@backend.command("weight")
@click.argument("weight", metavar="WEIGHT")
@service_option
@socket_option
@output_option
def backend_weight(weight: str, service: str | None, socket: Path, output: str) -> None:
    """Lower this node's effective weight: WEIGHT is a number, a percentage of the nominal weight, or `nominal`.

    It outlives a restart of the agent. More than the nominal weight is the configuration's to give.
    """
    _set(socket, output, service, weight=weight)
