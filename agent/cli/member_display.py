# SPDX-License-Identifier: Apache-2.0
"""Text of `lbctl status` about the other nodes: a row for each, whether all agree, and which rows are claimed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent.cli.table import Table, paint, state_text
from agent.time_text import age, format_time

MAX_ADDRESSES = 5
"""In one line: a cluster may have 1,000 nodes."""
MAX_SERVICES = 3
"""In one row: a node may have 250 services."""


def member_table(members: list[dict[str, Any]]) -> Table:
    """Return a row for each member, those that fail first."""
    table = Table("member", "state", "since", "weights", "echo", "notes")
    for m in sorted(members, key=_rank):
        since = "" if m["since_s"] is None else age(m["since_s"])
        table.add_row(m["address"], state_text(m["state"]), since, _weights(m), _echo(m), "; ".join(_notes(m)))
    return table


def differs(member: dict[str, Any]) -> bool:
    """Return whether a member is silent, unreachable, without an agent, or has another table."""
    echo = member["echo"]
    silent = member["silent_s"] is not None or (echo is not None and not echo["agent_lives"])
    return silent or not member["reachable"] or not member["same_epoch"]


def _rank(member: dict[str, Any]) -> tuple[bool, bool]:
    return not (differs(member) or member["state"] == "lost"), member["state"] == "up"


def _weights(member: dict[str, Any]) -> str:
    """Return the weights of the services that get less than their weight; of all, if they are few."""
    services = member["services"]
    less = {name: one for name, one in services.items() if one["effective"] != one["weight"] or one["state"] != "up"}
    shown = services if len(services) <= MAX_SERVICES else less
    if not shown:
        return f"all of {len(services)} full" if services else ""
    weights = [f"{name} {one['effective']}/{one['weight']}" for name, one in list(shown.items())[:MAX_SERVICES]]
    more = len(shown) - len(weights)
    return ", ".join(weights) + (f" and {more} more" if more else "")


def _notes(member: dict[str, Any]) -> Iterator[str]:
    if not member["reachable"] and member["state"] != "lost":
        yield paint("red", "no answer from its next hop")
    if not member["same_epoch"]:
        yield paint("red", f"{member['epoch']:#x}: different table; its configuration or version differs")
    elif not member["has_new_epoch"]:
        yield paint("yellow", "previous table only")
    if member["why"]:
        yield member["why"]


def _echo(member: dict[str, Any]) -> str:
    """Return the round trip time by each encapsulation, what is lost, and whether the agent lives."""
    if member["echo"] is None:
        return "this node"
    if member["silent_s"] is not None:
        return paint("red", f"silent for {age(member['silent_s'])}")
    found = [] if member["echo"]["agent_lives"] else [paint("red", "its agent does not run")]
    for way, stats in member["echo"]["ways"].items():
        lost = ", " + paint("red", f"{stats['unanswered']} of {stats['asked']} lost") if stats["unanswered"] else ""
        found.append(f"{way} {'-' if stats['rtt_ms'] is None else stats['rtt_ms']} ms{lost}")
    return "; ".join(found)


def agreement_lines(membership: dict[str, Any]) -> Iterator[str]:
    """Yield whether all nodes agree, and which node some reach and others do not."""
    since = format_time(membership["since"]) if membership["since"] else ""
    if membership["isolated"]:
        yield paint("red", "no other node answers this one: it keeps its tables, and takes no new connections")
    if membership["agree"] and membership["nodes"] > 1:
        yield f"all {membership['nodes']} nodes agree since {since}"
    for one in membership["differing"]:
        yield paint("yellow", f"{one['address']} differs from this node in its {one['in']} since {since}")
    for line in membership["services"]:
        yield paint("yellow", line)
    for one in membership["unreachable"]:
        some, others = one["by"], one["reached_by"]
        if others:  # else it is silent for all: its own row shows it
            line = f"{some_of(some)} {_do(some)} not reach {one['address']}; {some_of(others)} {_do(others)}"
            yield paint("yellow", line)


def claims_lines(claims: dict[str, Any] | None) -> Iterator[str]:
    """Yield which rows have places for nodes that hold connections there, if any."""
    if claims is not None and (claims["given"] or claims["taken"]):
        taken = claims["taken"].values()
        full = "".join(f"; {rows} rows of {service} are full" for service, rows in claims["full"].items())
        yield f"claims: {claims['given']} rows by this node, {sum(taken)} by {len(taken)} others{full}"
    for service, rows in (claims or {}).get("nearly_full", {}).items():
        yield paint(
            "yellow",
            f"{rows} rows of {service} have one place left for nodes that hold connections there: before more "
            "than one node joins, wait until older connections have ended (lbctl connections)",
        )


def some_of(addresses: list[str]) -> str:
    """Return the first of many addresses, and how many more there are."""
    shown, more = addresses[:MAX_ADDRESSES], len(addresses) - MAX_ADDRESSES
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _do(addresses: list[str]) -> str:
    return "does" if len(addresses) == 1 else "do"
