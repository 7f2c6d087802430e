# SPDX-License-Identifier: Apache-2.0
"""lbctl backend: the members of each service, and this node as one of them."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli.options import output_option, request, show, socket_option

service_option = click.option("--service", metavar="NAME", help="One service; without it, all of this node.")


@click.group()
def backend() -> None:
    """This node as a member of its services. Announcements do not change (see `lbctl announce`)."""


@backend.command("list")
@socket_option
@output_option
def backend_list(socket: Path, output: str) -> None:
    """Show each service's members, states and weights.

    In this node's view.
    """
    from agent.cli.display import print_backends

    status = request(socket, "GET", "/status")
    own = status["node"]["address"]
    backends = [
        {"service": service["name"], **member, "this_node": member["address"] == own}
        for service in status["services"]
        for member in service["members"]
    ]
    show({"backends": backends}, output, print_backends)


def _set(socket: Path, output: str, service: str | None, **query: str) -> None:
    from agent.cli.display import print_own_backends

    if service is not None:
        query["service"] = service
    show(request(socket, "POST", "/backend", **query), output, print_own_backends)


@backend.command("drain")
@service_option
@socket_option
@output_option
def backend_drain(service: str | None, socket: Path, output: str) -> None:
    """Take no new connections, keep the open ones.

    This node still forwards and announces for the other members.
    """
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
    """Lower this node's effective weight.

    WEIGHT is a number, a percentage of the nominal weight (50%), or `nominal`. It persists over restarts of the agent.
    To exceed the nominal weight, change the configuration.
    """
    _set(socket, output, service, weight=weight)
