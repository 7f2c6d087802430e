# SPDX-License-Identifier: Apache-2.0
"""lbctl bgp: this node's BGP speaker, from the command line. The work is bgp's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import config_option
from agent.config import file as configuration

if TYPE_CHECKING:
    from agent.announcing.speaker_config import LocalAddresses
    from agent.config.schema import Config
    from bgp.exabgp.settings import SpeakerConfig


@click.group()
def bgp() -> None:
    """This node's BGP speaker."""


@bgp.command()
@config_option
def run(path: Path) -> None:
    """Write and validate ExaBGP's configuration, then become ExaBGP, in the foreground (lb-bgp.service)."""
    from bgp.exabgp import speaker

    speaker.run(_speaker(path))


@bgp.command()
@config_option
def reload(path: Path) -> None:
    """Have the running ExaBGP take up what changed in lb.yml: sessions that did not change go on.

    A configuration that is refused changes nothing. The agent has a reload of its own.
    """
    from bgp.exabgp.reload import reload as put

    settings = _speaker(path)
    pid = put(settings)
    click.echo(f"ExaBGP (pid {pid}) has read the configuration: {', '.join(str(p.address) for p in settings.peers)}")


def _speaker(path: Path) -> SpeakerConfig:
    from agent.announcing.speaker_config import speaker_config

    settings = configuration.load(path)
    passwords = configuration.passwords(path, settings)
    return speaker_config(settings, own_ends(settings), passwords)


def own_ends(settings: Config) -> LocalAddresses:
    """This node's ends of its sessions. Raises AgentError as `own_interface` does."""
    from agent.announcing.speaker_config import LocalAddresses
    from agent.netlink.connection import link_locals
    from agent.node.own_interface import own_interface

    async def ask() -> LocalAddresses:
        here = await own_interface(settings)
        by_interface = await link_locals({peer.interface for peer in settings.bgp.peers if peer.interface})
        return LocalAddresses(here.address, here.next_hop6, by_interface)

    return asyncio.run(ask())
