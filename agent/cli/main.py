# SPDX-License-Identifier: Apache-2.0
"""lbctl: the command line. Nouns read, verbs change state; for people by default, for programs with -o json.

Owns the commands, their output and the exit codes: 0 done, 1 refused or failed (one line says why and what to do),
2 wrong usage, 3 no agent answers, 4 not within the time that --wait was given (cli/announce.py).
"""

from __future__ import annotations

import logging
import os
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import click

from agent.address import Network, endpoint
from agent.cli.announce import announce
from agent.cli.backend import backend
from agent.cli.bgp import bgp
from agent.cli.lab import lab
from agent.cli.options import ask, config_option, force_option, output_option, show, socket_option, xdp_option
from agent.cli.router_config import config_command
from agent.config import file as configuration
from agent.config.schema import Config, XdpConfig
from agent.errors import AgentError, NotRunningError
from bgp.errors import BgpError
from bpf.errors import BpfError
from topology.errors import LabError

EXIT_FAILED = 1
EXIT_NOT_RUNNING = 3


class _Group(click.Group):
    """Turns the errors of all four packages into one line and an exit code."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except NotRunningError as error:
            _fail(error, EXIT_NOT_RUNNING)
        except (AgentError, BgpError, BpfError, LabError) as error:
            _fail(error, EXIT_FAILED)
        except BrokenPipeError:
            # The reader (head, less) has seen enough. Python must not complain again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(EXIT_FAILED)


def _fail(error: Exception, code: int) -> None:
    for line in str(error).splitlines():
        click.echo(f"lbctl: {line}", err=True)
    sys.exit(code)


def _prefix(_: click.Context, __: click.Parameter, value: str) -> Network:
    try:
        return ip_network(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="anylb")
def main() -> None:
    """Inspect and steer anylb, the layer-4 load balancer without load-balancer machines."""


main.add_command(bgp)
main.add_command(lab)
main.add_command(announce)
main.add_command(backend)
announce.add_command(config_command)


# The daemons


@main.group()
def agent() -> None:
    """This node's agent."""


@agent.command("run")
@config_option
@xdp_option
def agent_run(path: Path, xdp: str | None) -> None:
    """Be the agent, in the foreground (lb-agent.service)."""
    from agent.daemon.start import start
    from agent.paths import Paths

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)

    def load() -> Config:
        settings = configuration.load(path)
        if xdp is None:
            return settings
        return settings.model_copy(update={"xdp": XdpConfig.model_validate({"mode": xdp})})

    start(load, Paths())


@agent.command("reload")
@socket_option
@output_option
def agent_reload(socket: Path, output: str) -> None:
    """Have the agent take in its changed configuration. Neither routes nor connections are touched by it; a
    configuration with a fault is refused, and nothing changes. The `bgp` section is also `lbctl bgp reload`'s."""
    from agent.cli.reload import reload

    show(reload(socket), output, lambda _: click.echo("reloaded"))


@agent.command("detach")
def agent_detach() -> None:
    """Take XDP program and tables off this node. The agent must be stopped; connections that it forwards break."""
    from agent.daemon.start import detach
    from agent.paths import Paths

    click.echo("detached" if detach(Paths()) else "nothing was attached")


@main.group("config")
def config_group() -> None:
    """The configuration file."""


@config_group.command("check")
@config_option
@output_option
def config_check(path: Path, output: str) -> None:
    """Read a configuration as the agent would, and say what is wrong with it."""
    settings = configuration.load(path)
    configuration.passwords(path, settings)
    services = [f"{s.name} {endpoint(s.vip, s.port)}/{s.protocol}" for s in settings.services]
    show(
        {"ok": True, "file": str(path), "services": services},
        output,
        lambda _: click.echo(f"{path}: fine ({', '.join(services)})"),
    )


# What is


@main.command()
@socket_option
@output_option
def status(socket: Path, output: str) -> None:
    """This node, its services, and what it believes of the others."""
    from agent.cli.display import print_status

    show(ask(socket, "GET", "/status"), output, print_status)


@main.command()
@click.argument("flow", metavar="TUPLE")
@socket_option
@output_option
def explain(flow: str, socket: Path, output: str) -> None:
    """Say where a flow goes: its row, its chain, and what each node would do.

    TUPLE is `tcp CLIENT:PORT VIP:PORT`, as one argument or joined by commas: tcp,192.0.2.7:41000,10.99.0.1:443
    """
    from agent.cli.display import print_explanation

    show(ask(socket, "GET", "/explain", tuple=flow), output, print_explanation)


# What changes


@main.group()
def deny() -> None:
    """The deny list: whose packets to VIPs are dropped first, on this node."""


@deny.command("list")
@socket_option
@output_option
def deny_list(socket: Path, output: str) -> None:
    """Show the deny list."""
    from agent.cli.display import print_denied

    show(ask(socket, "GET", "/deny"), output, print_denied)


def _deny_verb(name: str, method: str, help_text: str, said: str) -> None:
    @deny.command(name, help=help_text)
    @click.argument("prefix", callback=_prefix)
    @socket_option
    @output_option
    def command(prefix: Network, socket: Path, output: str) -> None:
        answer = ask(socket, method, "/deny", prefix=str(prefix))
        show(answer, output, lambda _: click.echo(f"{prefix}: {said}"))


_deny_verb("add", "POST", "Drop all packets from PREFIX to VIPs, now and after a restart of the agent.", "denied")
_deny_verb("del", "DELETE", "Let PREFIX in again.", "no longer denied")


def _verb(name: str, help_text: str, said: str, withdraws: bool) -> None:
    @main.command(name, help=help_text)
    @socket_option
    @output_option
    def command(socket: Path, output: str, force: bool = False) -> None:
        query = {"force": "yes"} if force else {}
        show(ask(socket, "POST", f"/{name}", **query), output, lambda _: click.echo(said))

    if withdraws:
        force_option(command)


_verb("drain", "Take no new connections, keep the open ones, leave the routers' ECMP sets.", "draining", True)
_verb("undrain", "Take new connections again: the way back from drain and leave.", "up", False)
_verb("leave", "Leave every chain, after a drain: connections that are still open here break.", "left", True)
