# SPDX-License-Identifier: Apache-2.0
"""Text output about the members of services, and the backends of NAT services."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from agent.cli.table import Response, printer, state_text, table_of


@printer
def print_backends(response: Response) -> None:
    """Print the members of every service, then the servers of those of mode nat."""
    console = Console(highlight=False)
    table = table_of("service", "member", "state", "weight", "effective", "")
    for entry in response["backends"]:
        here = "this node" if entry["this_node"] else ""
        state, weights = state_text(entry["state"]), (str(entry["weight"]), str(entry["effective"]))
        table.add_row(entry["service"], entry["address"], state, *weights, here)
    console.print(table)
    if response["nat_backends"]:
        servers = table_of("service", "backend", "health", "weight", "sessions", "")
        for entry in response["nat_backends"]:
            servers.add_row(
                entry["service"], entry["address"], _health(entry), str(entry["weight"]), _sessions(entry), _note(entry)
            )
        console.print("", servers)


def _health(entry: dict[str, Any]) -> str:
    return "[green]up[/]" if entry["healthy"] else f"[red]down[/] {entry['why']}"


def _sessions(entry: dict[str, Any]) -> str:
    elsewhere = entry["elsewhere"]
    return f"{entry['sessions']:,} here" + (f", {elsewhere:,} elsewhere" if elsewhere is not None else "")


def _note(entry: dict[str, Any]) -> str:
    checked = "" if entry["checked_here"] else "checked by other nodes"
    return "[yellow]drained[/]" + (f", {checked}" if checked else "") if entry["drained"] else checked


@printer
def print_drained(response: Response) -> None:
    """Print what became of one backend of a service of mode nat."""
    entry = response["backend"]
    state = "takes no new sessions on any node" if entry["drained"] else "takes new sessions again"
    Console(highlight=False).print(f"{entry['service']}: {entry['address']} {state}; sessions: {_sessions(entry)}")


@printer
def print_own_backends(response: Response) -> None:
    """Print this node's state and weight in the changed services."""
    for entry in response["services"]:
        weight = f"{entry['effective']} of {entry['weight']}"
        Console(highlight=False).print(f"{entry['name']}: {state_text(entry['state'])}, weight {weight}")
