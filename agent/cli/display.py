# SPDX-License-Identifier: Apache-2.0
"""Text output of the agent's responses. Reads the JSON of agent/control, prints it, and decides nothing."""

from __future__ import annotations

from typing import Any

from agent.cli.session_line import line_of
from agent.cli.status_display import instance_state
from agent.cli.table import Response, Table, paint, print_line, printer, state_text
from agent.time_text import age, format_time


@printer
def print_instances(response: Response) -> None:
    """Print the instances of some services."""
    if not response["services"]:
        print_line("no service of this node has instances")
        return
    table = Table("service", "policy", "instance", "state", "weight", "listeners", "pid", "", elide="service")
    for service in response["services"]:
        for one in service["instances"]:
            notes = ["added by hand"] if one["added"] else []
            notes += ["preferred"] if one["name"] == service["preferred"] else []
            notes += [one["why"]] if one["state"] == "unhealthy" else []
            table.add_row(
                service["name"], service["policy"], one["name"], instance_state(one), str(one["weight"]),
                str(one["listeners"]), str(one["pid"]), ", ".join(notes),
            )  # fmt: skip
        if not service["instances"]:
            table.add_row(service["name"], service["policy"], paint("yellow", "none found"))
    table.print()


@printer
def print_explanation(response: Response) -> None:
    """Print the flow's row and chain in each epoch, then each node's decision."""
    how = ", ".join(str(response[name]) for name in ("affinity", "forward") if response.get(name))
    print_line(f"{response['flow']}: service {response['service'] or 'unknown here'} ({how})")
    for epoch in response["epochs"]:
        use = "for new flows" if epoch["in_use"] else "tried too"
        number = f"hash {epoch['hash']:#010x}, " if "hash" in epoch else ""
        print_line(
            f"epoch {epoch['epoch']:#010x} ({use}): {number}row {epoch['row']}, "
            f"chain {' → '.join(epoch['chain']) or 'empty (no member)'}"
        )
    if "session" in response:
        found = response["session"]
        print_line(f"session in slot {found['slot']}: {line_of(found)}" if found else "no session of it on this node")
    if response["denied"]:
        line = f"dropped by every node: the client is in {response['denied']}, which is denied"
        print_line(paint("red", line))
    tried = [f"{node} (silent)" if node in response["silent"] else node for node in response["tried"]]
    print_line(f"tried in this order: {' → '.join(tried) or 'no node'}")
    print_line()
    columns = {"node": "at node", "syn": "a new connection (SYN)", "held": "a packet of a connection it holds"}
    columns |= {"not_held": "of one it does not hold"}
    shown = [name for name in columns if name in response["nodes"][0]]
    table = Table(*(columns[name] for name in shown))
    for node in response["nodes"]:
        table.add_row(*(node[name] for name in shown))
    table.print()


@printer
def print_denied(response: Response) -> None:
    """Print the deny list, and the source of each prefix."""
    if not response["denied"]:
        print_line("no prefix is denied")
        return
    table = Table("prefix", "from")
    for entry in response["denied"]:
        table.add_row(entry["prefix"], "the configuration" if entry["configured"] else "lbctl deny add")
    table.print()


@printer
def print_lab(response: Response) -> None:
    """Print the lab's nodes and their interfaces."""
    print_line(f"lab {response['name']} ({response['file']})")
    print_line()
    table = Table("node", "pid", "interfaces")
    for node in response["nodes"]:
        interfaces = [f"{i['name']} {' '.join(i['addresses'])}".strip() for i in node["interfaces"]]
        table.add_row(node["name"], str(node["pid"]) if node["alive"] else paint("red", "dead"), ", ".join(interfaces))
    table.print()


@printer
def print_announcements(response: Response) -> None:
    """Print each VIP's and pool's state at each peer, then its other announcers, then the faults."""
    table = Table("VIP", "peer", "desired", "in adj-rib-out", "session", "since", "why")
    for row in response["peers"]:
        as_desired = row["out"] == ("no" if row["desired"] == "withdrawn" else "yes")
        out = row["out"] if as_desired else paint("red", row["out"])
        table.add_row(
            row["vip"],
            row["peer"],
            row["desired"],
            out,
            state_text(row["session"]),
            age(row["since_s"]),
            row["why"],
        )
    table.print()
    for vip in response["vips"]:
        others = ", ".join(vip["others"]) or paint("yellow", "no other node")
        print_line(f"{vip['vip']} is also announced by {others}")
    for down in response["down"]:
        print_line(f"peer {down}")
    for fault in response["faults"]:
        print_line(f"{paint('red', fault['severity'])}: {fault['text']}")
    if response["save_error"]:
        print_line(paint("red", f"orders are not stored, so a restart reverts them: {response['save_error']}"))


def change_line(change: dict[str, Any]) -> str:
    """Return the line of one change of a VIP's state at a peer."""
    return (
        f"{format_time(change['since'])} {change['vip']} at {change['peer']}: {change['desired']}, "
        f"in adj-rib-out: {change['out']}, session {change['session']}: {change['why']}"
    )
