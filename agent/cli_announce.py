# SPDX-License-Identifier: Apache-2.0
"""lbctl announce: what the routers hear of each VIP from this node, and changing it."""

from __future__ import annotations

from pathlib import Path

import click

from agent.model import Address
from agent.options import ask, output_option, show, socket_option, vip_option


@click.group()
def announce() -> None:
    """What the routers hear of each VIP from this node."""


def _verb(name: str, resource: str, help_text: str, said: str) -> None:
    @announce.command(name, help=help_text)
    @vip_option
    @socket_option
    @output_option
    def command(vip: Address | None, socket: Path, output: str) -> None:
        from agent.control import vip_query

        answer = ask(socket, "POST", resource, **vip_query(vip))
        show(answer, output, lambda a: click.echo(f"{said}: {', '.join(a['vips'])}"))


_verb("up", "/announce", "Announce VIPs that were withdrawn, as soon as the node can serve them.", "to be announced")
_verb("down", "/withdraw", "Withdraw VIPs from the routers; the node goes on serving what reaches it.", "withdrawn")
