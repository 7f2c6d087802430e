# SPDX-License-Identifier: Apache-2.0
"""lbctl announce config: the router's configuration for this node's sessions. Needs the configuration, no agent."""

from __future__ import annotations

import re
import shlex
import sys
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.address import Address
from agent.cli.options import config_option
from agent.errors import AgentError
from bgp.router import KINDS

if TYPE_CHECKING:
    from agent.announcing.local_address import LocalAddresses
    from agent.announcing.router_config import NodeAddress
    from agent.config.schema import Config

_NODE = re.compile(
    r"(?:(?P<name>[A-Za-z][A-Za-z0-9_]{0,30})=)?(?P<address>[0-9a-fA-F.:]+(?:%[A-Za-z0-9_.-]{1,15})?)(?:@(?P<asn>[0-9]{1,10}))?"
    r"(?:,(?P<node>[0-9.]+))?"
)


def _address(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[Address, ...]:
    try:
        return tuple(ip_address(value) for value in values)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _router_id(_: click.Context, __: click.Parameter, value: str | None) -> IPv4Address | None:
    try:
        return IPv4Address(value) if value is not None else None
    except ValueError:
        raise click.BadParameter(f"{value} is not an IPv4 address") from None


def _nodes(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[NodeAddress, ...]:
    from agent.announcing.router_config import NodeAddress

    found: list[tuple[str | None, Address, int | None, IPv4Address | None]] = []
    named: dict[str | None, IPv4Address] = {}
    for value in values:
        match = _NODE.fullmatch(value)
        if match is None:
            raise click.BadParameter(
                f"{value} is not [NAME=]ADDRESS[@AS][,NODE], such as b1=10.0.0.11 or 10.0.0.12@65002"
            )
        try:
            address = ip_address(match["address"])
            node = IPv4Address(match["node"]) if match["node"] else None
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
        asn = int(match["asn"]) if match["asn"] else None
        if asn is not None and not 0 < asn < (1 << 32) - 1:
            raise click.BadParameter(f"{value}: {asn} is not in 1-4294967294")
        if match["name"] and (node or isinstance(address, IPv4Address)):
            named.setdefault(match["name"], node or IPv4Address(str(address)))
        found.append((match["name"], address, asn, node))
    return tuple(NodeAddress.of(name, address, asn, node or named.get(name)) for name, address, asn, node in found)


@click.command("config")
@config_option
@click.option("--router", "kind", type=click.Choice(sorted(KINDS)), required=True, help="What the router runs.")
@click.option(
    "--node", "nodes", multiple=True, callback=_nodes, metavar="[NAME=]ADDRESS[@AS][,NODE]",
    help="A node, instead of this one; once for each address of its BGP sessions, with the node's own address if that "
    "is another one and NAME has none yet: only that node's identity is accepted.",
)  # fmt: skip
@click.option(
    "--peer", "peers", multiple=True, callback=_address, metavar="ADDRESS",
    help="The router, by its address in bgp.peers; twice if it has two there. Without it, all routers in turn: if "
    "there are as many IPv6 addresses as IPv4 ones, they are paired in order.",
)  # fmt: skip
@click.option(
    "--router-id", callback=_router_id, metavar="ADDRESS", help="The router's id, if not its IPv4 address in bgp.peers."
)
@click.option("--log", metavar="FILE", help="The router's log file, if not syslog.")
def router_config(
    path: Path,
    kind: str,
    nodes: tuple[NodeAddress, ...],
    peers: tuple[Address, ...],
    router_id: IPv4Address | None,
    log: str | None,
) -> None:
    """Print a router's configuration for its sessions.

    It is complete, for sessions with this node or those of --node, and avoids the known traps of each router.
    """
    from agent.announcing.router_config import own_addresses, routers_of
    from agent.announcing.router_config import router_config as facts_of
    from agent.config import file

    config = file.load(path)
    for address in peers:
        if address not in [peer.address for peer in config.bgp.peers]:
            known = ", ".join(str(peer.address) for peer in config.bgp.peers)
            raise click.BadParameter(f"{address} is not in bgp.peers of {path}; known: {known}", param_hint="--peer")
    chosen = [peer for peer in config.bgp.peers if peer.address in peers]
    ends = None if nodes else _ends(config)
    made_by = shlex.join(["lbctl", *sys.argv[1:]])
    texts = []
    for router in [chosen] if chosen else routers_of(config.bgp.peers):
        of = nodes if ends is None else own_addresses(router, ends)
        texts.append(KINDS[kind](facts_of(config, router, of, router_id, log, made_by)))
    click.echo("\n".join(texts), nl=False)


def _ends(config: Config) -> LocalAddresses:
    from agent.cli.bgp import local_addresses

    try:
        return local_addresses(config)
    except AgentError as error:
        raise AgentError(f"{error}; or name the router's nodes with --node") from None
