# SPDX-License-Identifier: Apache-2.0
"""The options that lbctl's commands share."""

from __future__ import annotations

from pathlib import Path

import click

config_option = click.option(
    "-c", "--config", "path", type=click.Path(path_type=Path), default=Path("/etc/anylb/lb.yml"), show_default=True,
    envvar="ANYLB_CONFIG", help="The node's configuration.",
)  # fmt: skip
socket_option = click.option(
    "-s", "--socket", type=click.Path(path_type=Path), default=Path("/run/anylb/agent.sock"), show_default=True,
    envvar="ANYLB_SOCKET", help="The agent's control socket.",
)  # fmt: skip
output_option = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="For whom."
)
xdp_option = click.option(
    "--xdp", type=click.Choice(["auto", "native", "generic", "off"]), envvar="ANYLB_XDP",
    help="Overrides xdp.mode of the configuration.",
)  # fmt: skip
