# SPDX-License-Identifier: Apache-2.0
"""lbctl agent: the daemon of this node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import config_option, output_option, show, socket_option, xdp_option
from agent.paths import Paths

if TYPE_CHECKING:
    pass


@click.group()
def agent() -> None:
    """The agent of this node."""


@agent.command()
@config_option
@xdp_option
@click.option(
    "--pins",
    type=click.Path(path_type=Path),
    default=Paths().pins,
    show_default=True,
    help="The folder of the data path's pins, on a BPF file system.",
)
def run(path: Path, xdp: str | None, pins: Path) -> None:
    """Run the agent in the foreground (lb-agent.service)."""
    from agent.daemon.runtime import defer_collection

    defer_collection()
    from dataclasses import replace

    from agent.cli.start_error import start_errors
    from agent.config import file
    from agent.config.xdp import XdpConfig
    from agent.daemon.log_setup import start_logging
    from agent.daemon.start import start

    start_logging(Paths())

    def load(text: str | None) -> file.Loaded:
        loaded = file.load_text(path, file.read_text(path) if text is None else text)
        if xdp is None:
            return loaded
        mode = XdpConfig.model_validate({"mode": xdp})
        return replace(loaded, config=loaded.config.model_copy(update={"xdp": mode}))

    with start_errors():
        start(load, path, Paths(pins=pins))


@agent.command()
@click.option("--force", is_flag=True, help="Also if the change ends sessions of NAT services.")
@socket_option
@output_option
def reload(force: bool, socket: Path, output: str) -> None:
    """Apply all of lb.yml.

    Unchanged BGP sessions, routes and connections are not touched. A configuration with a fault is refused, and nothing
    changes; so is one that ends sessions of NAT services, such as another pool. `lbctl config apply` shows the steps,
    and can go back by itself.
    """
    from agent.cli.reload import reload as reload_agent

    show(reload_agent(socket, force), output, lambda _: click.echo("reloaded"))


@agent.command()
def detach() -> None:
    """Remove XDP program and tables from this node.

    The agent must be stopped. Connections that this node forwards break. The kernel chooses among instances again.
    """
    from agent.daemon.start import detach as detach_node

    click.echo("detached" if detach_node(Paths()) else "nothing was attached")


@agent.command()
def uninstall() -> None:
    """Remove all that agents have put into this node's kernel.

    That is, VIPs on lo, XDP programs, tables and rules; settings are set back to what they were before the first agent
    of this boot. The agent must be stopped (`systemctl stop lb-agent lb-bgp`, which withdraws the routes first). The
    configuration, its keys and the operator's orders stay.
    """
    from agent.daemon.uninstall import uninstall as uninstall_node

    removed = uninstall_node(Paths())
    click.echo("\n".join(f"removed or set back: {one}" for one in removed) or "there was nothing")
