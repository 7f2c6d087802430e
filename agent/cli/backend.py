# SPDX-License-Identifier: Apache-2.0
"""lbctl backend: the members of each service, this node as one of them, and the backends of NAT services."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli import names
from agent.cli.options import output_option, request, show, socket_option

service_option = click.option(
    "--service", metavar="NAME", shell_complete=names.services, help="One service; without it, all of this node."
)


@click.group()
def backend() -> None:
    """This node as a member of its services; NAT's backends.

    Announcements do not change (see `lbctl announce`).
    """


@backend.command("list")
@socket_option
@output_option
def backend_list(socket: Path, output: str) -> None:
    """Show each service's members, states and weights.

    In this node's view. Services of mode nat have backends beside them.
    """
    from agent.cli.backend_display import print_backends

    status = request(socket, "GET", "/status")
    own = status["node"]["address"]
    backends = [
        {"service": service["name"], **member, "this_node": member["address"] == own}
        for service in status["services"]
        for member in service["members"]
    ]
    servers = [
        {"service": service["name"], **one} for service in status["services"] for one in service["backends"] or ()
    ]
    show({"backends": backends, "nat_backends": servers}, output, print_backends)


def _drain(socket: Path, output: str, service: str | None, of_nat: tuple[str, ...], drained: str) -> None:
    from agent.cli.backend_display import print_drained

    if not of_nat:
        _set(socket, output, service, drained=drained)
        return
    if len(of_nat) != 2 or service is not None:
        raise click.UsageError("name the service and one backend of it, as web 10.9.0.11:8443, or none")
    query = {"service": of_nat[0], "backend": of_nat[1], "drained": drained}
    show(request(socket, "POST", "/backend", **query), output, print_drained)


def _set(socket: Path, output: str, service: str | None, **query: str) -> None:
    from agent.cli.backend_display import print_own_backends

    if service is not None:
        query["service"] = service
    show(request(socket, "POST", "/backend", **query), output, print_own_backends)


_of_nat = click.argument("of_nat", nargs=-1, metavar="[NAT_SERVICE ADDRESS:PORT]")


@backend.command("drain")
@_of_nat
@service_option
@socket_option
@output_option
def backend_drain(of_nat: tuple[str, ...], service: str | None, socket: Path, output: str) -> None:
    """Take no new connections, keep the open ones.

    Without arguments this node: it still forwards and announces for the other members. With a service of mode nat and
    one of its backends that backend, on all nodes. `lbctl backend list` shows how many sessions it still has.
    """
    _drain(socket, output, service, of_nat, "yes")


@backend.command("undrain")
@_of_nat
@service_option
@socket_option
@output_option
def backend_undrain(of_nat: tuple[str, ...], service: str | None, socket: Path, output: str) -> None:
    """Take new connections again.

    A backend of a service of mode nat may have been drained on another node.
    """
    _drain(socket, output, service, of_nat, "no")


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
