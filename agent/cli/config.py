# SPDX-License-Identifier: Apache-2.0
"""lbctl config: the configuration file. Needs no agent."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli.options import config_option, output_option, show


@click.group()
def config() -> None:
    """The configuration file."""


@config.command()
@config_option
@output_option
def check(path: Path, output: str) -> None:
    """Report every error of a configuration.

    Reads it as the agent does, with the files that it names. Each error is file:line:column: field: what is wrong.
    """
    from agent.address import endpoint
    from agent.config import file

    config = file.load(path)
    file.read_peer_passwords(path, config)
    services = [f"{s.name} {endpoint(s.vip, s.port)}/{s.protocol}" for s in config.services]
    show(
        {"ok": True, "file": str(path), "services": services},
        output,
        lambda _: click.echo(f"{path}: valid ({', '.join(services)})"),
    )
