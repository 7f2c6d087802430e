# SPDX-License-Identifier: Apache-2.0
"""lbctl bgp: the BGP speaker of this node. Needs the configuration, no agent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import config_option

if TYPE_CHECKING:
    from agent.announcing.local_address import LocalAddresses
    from agent.config.schema import Config
    from bgp.exabgp.config import SpeakerConfig


@click.group()
def bgp() -> None:
    """The BGP speaker of this node (ExaBGP)."""


@bgp.command()
@config_option
def run(path: Path) -> None:
    """Run ExaBGP in the foreground (lb-bgp.service).

    Writes and validates its configuration first.
    """
    from agent.cli.start_error import start_errors
    from bgp.exabgp import speaker

    with start_errors():
        speaker.run(_speaker(path))


@bgp.command()
@config_option
def reload(path: Path) -> None:
    """Have ExaBGP read the `bgp` section again, without the agent.

    Sessions whose settings did not change stay up. A configuration with a fault is refused, and nothing changes.
    `lbctl reload` takes all of the file, this section too.
    """
    from bgp.exabgp.reload import reload as reload_exabgp

    settings = _speaker(path)
    pid = reload_exabgp(settings)
    click.echo(f"ExaBGP (pid {pid}) has read the configuration: {', '.join(str(p.address) for p in settings.peers)}")


def _speaker(path: Path) -> SpeakerConfig:
    from agent.announcing.speaker_config import speaker_config
    from agent.config import file

    config = file.load(path)
    return speaker_config(config, local_addresses(config), file.read_peer_passwords(path, config))


def local_addresses(config: Config) -> LocalAddresses:
    """Return this node's ends of its BGP sessions. Raises SettingError as `own_interface` does."""
    import asyncio

    from agent.node import own_interface

    async def read() -> LocalAddresses:
        return await own_interface.local_addresses(config, await own_interface.own_interface(config))

    return asyncio.run(read())
