# SPDX-License-Identifier: Apache-2.0
"""Shared by lbctl's commands: their options, the request to the agent, and the output of its response."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from agent.cli import names
from agent.errors import AgentError, NotRunningError
from agent.time_text import parse_duration
from bgp.printable import escaped

if TYPE_CHECKING:
    from agent.address import Address

EXIT_NOT_IN_TIME = 4
"""Of `--wait`."""
EXIT_DIFFERS, EXIT_TROUBLE = 1, 2
"""Of diff(1), and of all that is like it."""

config_option = click.option(
    "-c", "--config", "path", type=click.Path(path_type=Path), default=Path("/etc/anylb/lb.yml"), show_default=True,
    envvar="ANYLB_CONFIG", help="The node's configuration.",
)  # fmt: skip
socket_option = click.option(
    "-s", "--socket", type=click.Path(path_type=Path), default=Path("/run/anylb/agent.sock"), show_default=True,
    envvar="ANYLB_SOCKET", help="The agent's control socket.",
)  # fmt: skip
output_option = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="text for people, json for programs.",
)  # fmt: skip
xdp_option = click.option(
    "--xdp", type=click.Choice(["auto", "native", "generic", "off"]), envvar="ANYLB_XDP",
    help="Overrides xdp.mode of the configuration.",
)  # fmt: skip


class WholeNumber(click.IntRange):
    """click's range of integers; the error for what is none has this name, where click's is "integer range"."""

    name = "whole number"


def _vip(_: click.Context, __: click.Parameter, value: str | None) -> Address | None:
    from ipaddress import ip_address

    try:
        return ip_address(value) if value is not None else None
    except ValueError:
        raise click.BadParameter(f"{value} is not an IP address") from None


def seconds(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """Return the seconds of an option that is a duration. Raises BadParameter."""
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


interval_option = click.option(
    "--interval", "interval_s", callback=seconds, default="1s", show_default=True, metavar="TIME",
    help="The time over which rates are taken.",
)  # fmt: skip
force_option = click.option(
    "--force", is_flag=True, help="Proceed even if no other node is known to announce the VIP, which ends its service."
)
vip_option = click.option(
    "--vip", callback=_vip, metavar="ADDRESS", shell_complete=names.vips, help="One VIP; without it, all of this node."
)


def fail(error: object, code: int) -> NoReturn:
    """Print an error, a line of it after the other, and exit."""
    for line in str(error).splitlines():
        click.echo(f"lbctl: {escaped(line)}", err=True)
    sys.exit(code)


@contextlib.contextmanager
def as_of_diff() -> Iterator[None]:
    """Exit with 2 where the agent refuses, as diff(1) does at trouble: 1 is for a difference."""
    try:
        yield
    except NotRunningError:
        raise
    except AgentError as error:
        fail(error, EXIT_TROUBLE)


def request(socket: Path, method: str, resource: str, /, **query: str) -> dict[str, Any]:
    """Return the agent's response. Raises NotRunningError if no agent answers, AgentError if it refuses."""
    from agent.cli.client import call

    return call(socket, method, resource, **query)


def show(response: dict[str, Any], output: str, print_text: Callable[[dict[str, Any]], None]) -> None:
    """Print a response as JSON, or by `print_text`."""
    if output == "json":
        click.echo(json.dumps(response, indent=2))
    else:
        print_text(response)


def vip_query(vip: Address | None) -> dict[str, str]:
    """Return the query for one VIP, or for all."""
    return {} if vip is None else {"vip": str(vip)}
