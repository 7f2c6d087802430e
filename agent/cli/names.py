# SPDX-License-Identifier: Apache-2.0
"""Completion of names by the shell: services, VIPs, nodes and instances, as the agent knows them right now."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import click

from agent.errors import AgentError

ASK_S: Final = 0.5
"""How long the shell waits for the agent; without an answer it completes nothing."""
DEFAULT_SOCKET: Final = Path("/run/anylb/agent.sock")
Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def _from_status(names: Callable[[dict[str, Any]], Iterable[str]]) -> Complete:
    """Return what completes by the names that a status has."""

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        from agent.cli.client import call_within

        try:
            status = call_within(context.params.get("socket") or DEFAULT_SOCKET, "GET", "/status", ASK_S)
        except AgentError:
            return []
        return sorted({name for name in names(status) if name.startswith(incomplete)})

    return complete


services = _from_status(lambda status: (one["name"] for one in status["services"]))
vips = _from_status(lambda status: (one["vip"] for one in status["vips"]))
nodes = _from_status(lambda status: (one["address"] for one in status["members"]))
instances = _from_status(
    lambda status: (
        instance["name"] for one in status["services"] if one["instances"] for instance in one["instances"]["instances"]
    )
)
