# SPDX-License-Identifier: Apache-2.0
"""lbctl config diff, apply, confirm, undo, show, schema: what runs, and its change to what lb.yml contains."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from agent.cli.options import EXIT_DIFFERS, as_of_diff, output_option, request, seconds, show, socket_option

DIFF_TIMEOUT_S = 60.0
"""lb.yml of the largest size, with 60,000 prefixes in `deny`, takes 4 s of CPU; 14 s on a busy machine."""
_force = click.option("--force", is_flag=True, help="Also if the change ends sessions of NAT services.")


@click.command()
@socket_option
@output_option
def diff(socket: Path, output: str) -> None:
    """What lb.yml would change of what runs.

    One line for each setting, as `~ services[web].weight: 100 → 50`. Exit codes as of diff(1): 0 equal, 1 different; 2
    if lb.yml has a fault.
    """
    with as_of_diff():
        found = _difference(socket)
    show({key: found[key] for key in ("equal", "changes")}, output, _print_changes)
    sys.exit(0 if found["equal"] else EXIT_DIFFERS)


def _difference(socket: Path) -> dict[str, Any]:
    from agent.cli.client import call_within

    return call_within(socket, "GET", "/config/diff", DIFF_TIMEOUT_S)


@click.command()
@click.option("--timeout", callback=seconds, metavar="TIME", help="Go back after this time, as 5m, unless confirmed.")
@click.option("--dry-run", is_flag=True, help="Show the steps, and change nothing.")
@_force
@socket_option
@output_option
def apply(timeout: float | None, dry_run: bool, force: bool, socket: Path, output: str) -> None:
    """Apply lb.yml, in steps that are shown.

    With --timeout the previous configuration returns by itself unless `lbctl config confirm` comes first, also if the
    agent is killed meanwhile. lb.yml is then what it was before, and the text that was taken back is lb.yml.rejected.
    """
    from agent.cli.reload import change

    planned = _difference(socket)
    if output == "text":
        _print_steps(planned["steps"])
    if dry_run:
        if output == "json":
            show(planned, output, _print_changes)
        return
    query = {"force": "yes"} if force else {}
    if timeout is not None:
        query["timeout"] = f"{timeout:g}"
    done = change(socket, "/config/apply", query) | {"changes": planned["changes"], "steps": planned["steps"]}
    show(done, output, lambda _: click.echo(_applied(timeout)))


def _applied(timeout: float | None) -> str:
    if timeout is None:
        return "applied"
    return f"applied; the previous configuration returns in {timeout:g} s unless you run `lbctl config confirm`"


@click.command()
@socket_option
@output_option
def confirm(socket: Path, output: str) -> None:
    """Let a change stay that `apply --timeout` began."""
    show(request(socket, "POST", "/config/confirm"), output, lambda _: click.echo("confirmed"))


@click.command()
@_force
@socket_option
@output_option
def undo(force: bool, socket: Path, output: str) -> None:
    """Go back to the configuration before the last change.

    lb.yml is then that one, and what it was is lb.yml.rejected. The last ten are kept, so it may be repeated.
    """
    from agent.cli.reload import change

    done = change(socket, "/config/undo", {"force": "yes"} if force else {})
    show(done, output, lambda _: click.echo("the previous configuration runs; lb.yml.rejected is what it replaced"))


@click.command(name="show")
@socket_option
@output_option
def show_running(socket: Path, output: str) -> None:
    """The configuration that runs, with its defaults marked.

    Keys and passwords are not in it.
    """
    from agent.cli.config_display import as_yaml

    found = request(socket, "GET", "/config")
    show(found, output, lambda _: click.echo(as_yaml(found["config"], frozenset(found["defaults"]))))


@click.command()
def schema() -> None:
    """The JSON schema of lb.yml, for editors. Needs no agent."""
    import json

    from agent.config.schema import Config

    click.echo(json.dumps(Config.model_json_schema(by_alias=True), indent=2))


def _print_changes(found: dict[str, Any]) -> None:
    for one in found["changes"]:
        click.echo(one["text"])


def _print_steps(steps: list[dict[str, Any]]) -> None:
    if not steps:
        click.echo("lb.yml is what runs: nothing changes")
    for number, step in enumerate(steps, 1):
        click.echo(f"{number:2} {'! ' if step['warning'] else ''}{step['text']}")
