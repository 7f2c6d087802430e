# SPDX-License-Identifier: Apache-2.0
"""lbctl events: what happened on this node, when and why. Reads the agent's file, so it needs no agent that runs."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from agent.cli.options import output_option, seconds
from agent.cli.table import paint
from agent.errors import AgentError
from agent.paths import Paths
from agent.time_text import format_time
from bgp.printable import escaped

_LEVELS = ("info", "warning", "error")
_COLORS = {"warning": "yellow", "error": "red", "critical": "red"}


@click.command()
@click.option("-f", "--follow", "following", is_flag=True, help="Then print events as they happen, until Ctrl-C.")
@click.option(
    "--since", "since_s", callback=seconds, default="7d", show_default=True, metavar="TIME",
    help="Events of the last 90s, 10m, 1h30m or 2d; at most 7 days are kept.",
)  # fmt: skip
@click.option("--level", type=click.Choice(_LEVELS), default="info", show_default=True, help="This level and above.")
@click.option(
    "--file", "path", type=click.Path(path_type=Path), default=Paths().events, show_default=True,
    help="Where the agent keeps them.",
)  # fmt: skip
@output_option
def events(following: bool, since_s: float, level: str, path: Path, output: str) -> None:
    """Show what happened on this node, when and why.

    Announcements, members, sessions, health, epochs, requests of operators, problems. With -o json, one object a line.
    """
    count = 0
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have SIGINT ignored in the background
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        for event in _read(path, time.time() - since_s, following):
            if event["level"] not in _LEVELS[: _LEVELS.index(level)]:
                click.echo(json.dumps(event) if output == "json" else line_of(event))
                count += 1
    if not count and not following and output == "text":
        why = "has no such event" if path.exists() else "is missing: no agent has run here, or --file names another"
        click.echo(escaped(f"lbctl: {path} {why}"), err=True)


def _read(path: Path, since: float, following: bool) -> Iterator[dict[str, Any]]:
    """Yield events. Raises AgentError for what prevents reading them: an OSError of the output is another's."""
    from agent.daemon import event_log

    try:
        yield from event_log.read(path, since)
        if following:
            yield from event_log.follow(path)
    except OSError as error:
        step = "run lbctl as root" if isinstance(error, PermissionError) else "give the file of the agent's events"
        raise AgentError(f"{error.filename or path}: {error.strerror}; {step}") from None


def line_of(event: dict[str, Any]) -> str:
    """Return an event's line."""
    level = "" if event["level"] == "info" else paint(_COLORS.get(event["level"]), event["level"]) + ": "
    return f"{format_time(event['time'])} {level}{escaped(event['text'])}"
