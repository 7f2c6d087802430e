# SPDX-License-Identifier: Apache-2.0
"""Text output about the members of services, and the backends of NAT services."""

from __future__ import annotations

from typing import Any

from agent.cli.table import Response, Table, paint, print_line, printer, state_text


@printer
def print_backends(response: Response) -> None:
    """Print the members of every service, then the servers of those of mode nat."""
    table = Table("service", "member", "state", "weight", "effective", "", elide="service")
    for entry in response["backends"]:
        here = "this node" if entry["this_node"] else ""
        state, weights = state_text(entry["state"]), (str(entry["weight"]), str(entry["effective"]))
        table.add_row(entry["service"], entry["address"], state, *weights, here)
    table.print()
    if response["nat_backends"]:
        servers = Table("service", "backend", "health", "weight", "sessions", "", elide="service")
        for entry in response["nat_backends"]:
            servers.add_row(
                entry["service"], entry["address"], _health(entry), str(entry["weight"]), _sessions(entry), _note(entry)
            )
        print_line()
        servers.print()


def _health(entry: dict[str, Any]) -> str:
    return paint("green", "up") if entry["healthy"] else f"{paint('red', 'down')} {entry['why']}"


def _sessions(entry: dict[str, Any]) -> str:
    elsewhere = entry["elsewhere"]
    return f"{entry['sessions']:,} here" + (f", {elsewhere:,} elsewhere" if elsewhere is not None else "")


def _note(entry: dict[str, Any]) -> str:
    checked = "" if entry["checked_here"] else "checked by other nodes"
    return paint("yellow", "drained") + (f", {checked}" if checked else "") if entry["drained"] else checked


@printer
def print_drained(response: Response) -> None:
    """Print what became of one backend of a service of mode nat."""
    entry = response["backend"]
    state = "takes no new sessions on any node" if entry["drained"] else "takes new sessions again"
    print_line(f"{entry['service']}: {entry['address']} {state}; sessions: {_sessions(entry)}")


@printer
def print_own_backends(response: Response) -> None:
    """Print this node's state and weight in the changed services."""
    for entry in response["services"]:
        weight = f"{entry['effective']} of {entry['weight']}"
        print_line(f"{entry['name']}: {state_text(entry['state'])}, weight {weight}")
