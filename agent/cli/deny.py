# SPDX-License-Identifier: Apache-2.0
"""lbctl deny: the deny list of this node."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import click

from agent.address import Network
from agent.cli.options import output_option, request, show, socket_option


def _prefix(_: click.Context, __: click.Parameter, value: str) -> Network:
    try:
        whole = ip_network(value, strict=False)
    except ValueError:
        raise click.BadParameter(
            f"'{value}' is no prefix; write one as 192.0.2.0/24, 2001:db8::/32 or 192.0.2.7"
        ) from None
    address = value.partition("/")[0]
    if whole.network_address != ip_address(address):
        raise click.BadParameter(f"{value} has bits set after its length; write {whole}, or {address} alone")
    return whole


prefix_argument = click.argument("prefix", callback=_prefix)


@click.group()
def deny() -> None:
    """Prefixes whose packets to VIPs are dropped."""


@deny.command("list")
@socket_option
@output_option
def deny_list(socket: Path, output: str) -> None:
    """Show the deny list."""
    from agent.cli.display import print_denied

    show(request(socket, "GET", "/deny"), output, print_denied)


@deny.command()
@prefix_argument
@click.option(
    "--force", is_flag=True, help="Also if PREFIX is shorter than /8, or /16 with IPv6: many clients, or all."
)
@socket_option
@output_option
def add(prefix: Network, force: bool, socket: Path, output: str) -> None:
    """Drop all packets from PREFIX to VIPs.

    It persists over restarts of the agent.
    """
    response = request(socket, "POST", "/deny", prefix=str(prefix), **({"force": "yes"} if force else {}))
    show(response, output, lambda _: click.echo(f"{prefix}: denied"))


@deny.command("del")
@prefix_argument
@socket_option
@output_option
def delete(prefix: Network, socket: Path, output: str) -> None:
    """Accept packets from PREFIX again."""
    response = request(socket, "DELETE", "/deny", prefix=str(prefix))
    show(response, output, lambda _: click.echo(f"{prefix}: no longer denied"))
