# SPDX-License-Identifier: Apache-2.0
"""lbctl config: the configuration file, and the group of what changes it. The check needs no agent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.config_change import apply, confirm, diff, schema, show_running, undo
from agent.cli.options import config_option, output_option, show
from agent.errors import ConfigError, SettingError
from bgp.printable import escaped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.schema import Config


@click.group()
def config() -> None:
    """The configuration file, and the configuration that runs."""


for _command in (diff, apply, confirm, undo, show_running, schema):
    config.add_command(_command)


@config.command()
@config_option
@click.option(
    "--offline", is_flag=True, help="The file is for another machine: look at no interface, user or other file."
)
@output_option
def check(path: Path, offline: bool, output: str) -> None:
    """Report every error of a configuration.

    Reads it as the agent and ExaBGP do on this node, with its interfaces and addresses and the files that it names.
    Each error is file:line:column: field: what is wrong.
    """
    from agent.address import endpoint
    from agent.config import file

    warnings: tuple[SettingError, ...] = ()
    not_checked = []
    if offline:
        config = file.load_without_secrets(path)
        not_checked = ["the node's interfaces and addresses", "key and password files", "ExaBGP's own check"]
    else:
        config = file.load(path)
        passwords = file.read_peer_passwords(path, config)
        try:
            warnings = _check_on_node(config, passwords)
        except SettingError as error:
            hint = "if the file is for another machine, check it with --offline"
            raise ConfigError(f"{file.locate(path, error)}\n{hint}") from None
        if os.geteuid() != 0:
            not_checked = ["ExaBGP's own check, which needs root"]
    services = [f"{s.name} {endpoint(s.vip, s.port)}/{s.protocol}" for s in config.services]
    if config.members.key_warning:
        warnings += (config.members.key_warning,)
    lines = [f"{file.locate(path, warning)}" for warning in warnings]

    def print_text(_: object) -> None:
        for line in lines:
            click.echo(escaped(f"warning: {line}"))
        click.echo(f"{path}: valid ({', '.join(services)})")
        if not_checked:
            click.echo(f"not checked: {', '.join(not_checked)}")

    answer = {"ok": True, "file": str(path), "services": services, "warnings": lines, "not_checked": not_checked}
    show(answer, output, print_text)


def _check_on_node(config: Config, passwords: Mapping[str, bytes]) -> tuple[SettingError, ...]:
    """Return warnings. Raises SettingError, or BgpError, for what agent or ExaBGP would refuse on this machine."""
    import asyncio

    from agent.announcing.local_address import LocalAddresses
    from agent.announcing.speaker_config import speaker_config
    from agent.forwarding.path_check import path_warnings
    from agent.health.prerequisite import missing_prerequisites
    from agent.instances.prerequisite import missing_for_instances
    from agent.node.own_interface import Interface, local_addresses, own_interface
    from bgp.exabgp.speaker import prepare

    async def read() -> tuple[Interface, LocalAddresses, tuple[SettingError, ...]]:
        own = await own_interface(config)
        return own, await local_addresses(config, own), await path_warnings(config, own.address)

    own, local, paths = asyncio.run(read())
    speaker = speaker_config(config, local, passwords)
    if os.geteuid() == 0:
        prepare(speaker)
    return (*own.warnings, *paths, *missing_prerequisites(config.services), *missing_for_instances(config.services))
