# SPDX-License-Identifier: Apache-2.0
"""The agent's answers for a person at a terminal. Reads JSON as server.py gives it, prints, and decides nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agent.announcing.order import format_time

Answer = dict[str, Any]

_COLORS = {"up": "green", "draining": "yellow", "lost": "red", "left": "dim", "down": "red"}


def _plain(value: Any) -> Any:
    """The same with every text in it made such that rich prints it as it stands: `[fd00::1]` is no markup."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def _printer(show: Callable[[Answer], None]) -> Callable[[Answer], None]:
    """What prints an answer, given one whose texts are no markup."""
    return functools.wraps(show)(lambda answer: show(_plain(answer)))


def _state(value: str) -> str:
    color = _COLORS.get(value)
    return f"[{color}]{value}[/]" if color else value


def _bfd(bfd: dict[str, Any] | None) -> str:
    """A neighbor's path, in brackets behind it."""
    if bfd is None:
        return ""
    if bfd["error"]:
        return f" ([red]BFD: {bfd['error']}[/])"
    if bfd["state"] == "up":
        return f" (BFD {_state('up')}, silent at most {bfd['detection_ms']:g} ms)"
    return f" (BFD {_state(bfd['state'])}{': ' if bfd['diagnostic'] else ''}{bfd['diagnostic']})"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


@_printer
def print_status(answer: Answer) -> None:
    """The node in a line, then its VIPs, services and members."""
    console = Console(highlight=False)
    node, xdp, bgp = answer["node"], answer["xdp"], answer["bgp"]
    ready = "[green]ready[/]" if answer["ready"] else "[red]not ready[/]"
    attached = f"XDP {xdp['mode']} on {xdp['interface']}" if xdp["attached"] else "[red]XDP not attached[/]"
    console.print(
        f"node {node['address']} ({_state(node['state'])}), cluster {node['cluster']}, {ready}, "
        f"{'XDP off' if xdp['mode'] == 'off' else attached}"
    )
    if len(node["epochs"]) > 1:
        which = "the new table" if node["epoch"] == node["epochs"][0] else "the previous table"
        soon = ", about to change" if node["next_epoch"] is not None else ""
        console.print(f"two epochs: new connections go by {which} ({node['epoch']:#x}){soon}")
    if answer["fault"]:
        console.print(f"[red]{answer['fault']}[/]")
    if xdp["fallback_reason"]:
        console.print(f"[yellow]{xdp['fallback_reason']}[/]")
    for error in answer["clamp"]["errors"]:
        console.print(f"[yellow]MSS not lowered: {error}[/]")
    peers = ", ".join(f"{peer['address']} {_state(peer['state'])}{_bfd(peer['bfd'])}" for peer in bgp["peers"])
    console.print(
        f"BGP peers: {peers or 'none'}"
        + ("" if bgp["relay"] == "connected" else f"; [red]{bgp['relay']}[/]")
        + (f"; [red]{bgp['error']}[/]" if bgp["error"] else "")
    )
    console.print()
    vips = _table("VIP", "announced", "why")
    for vip in answer["vips"]:
        word = {(True, True): "yes", (True, False): "not yet", (False, True): "still", (False, False): "no"}
        vips.add_row(vip["vip"], word[vip["wanted"], vip["announced"]], vip["why"])
    console.print(vips, "")
    services = _table("service", "VIP", "health", "weight", "members (effective)", "table")
    for service in answer["services"]:
        members = ", ".join(
            f"{m['address']} {m['effective']}" + ("" if m["state"] == "up" else f" {_state(m['state'])}")
            for m in service["members"]
        )
        services.add_row(
            f"{service['name']} {service['protocol']}",
            service["endpoint"],
            "[green]healthy[/]" if service["healthy"] else f"[red]unhealthy[/] {service['why']}",
            f"{service['effective']}/{service['weight']}",
            members,
            service["digest"],
        )
    console.print(services, "")
    believed = _table("member", "tag", "state", "weights", "since", "epoch", "version", "last change")
    for m in answer["members"]:
        since = "" if m["since_s"] is None else f"{m['since_s']:.0f} s"
        epoch = "same" if m["has_new_epoch"] else "[yellow]the previous one only[/]"
        if not m["same_epoch"]:
            epoch = f"[red]{m['epoch']:#x}: another table; its config or version differs[/]"
        weights = ", ".join(f"{name} {s['effective']}/{s['weight']}" for name, s in m["services"].items())
        where = m["address"]
        if not m["reachable"] and m["state"] != "lost":
            where += " [red]nobody answers at its next hop[/]"
        believed.add_row(
            where, str(m["tag"]), _state(m["state"]), weights, since, epoch, str(m["version"]), m["why"]
        )  # fmt: skip
    console.print(believed)
    for problem in answer["problems"]:
        console.print(f"[red]{problem}[/]")


@_printer
def print_backends(answer: Answer) -> None:
    """Every service's members."""
    table = _table("service", "member", "state", "weight", "effective", "")
    for entry in answer["backends"]:
        here = "this node" if entry["this_node"] else ""
        table.add_row(
            entry["service"], entry["address"], _state(entry["state"]), str(entry["weight"]), str(entry["effective"]),
            here,
        )  # fmt: skip
    Console(highlight=False).print(table)


@_printer
def print_own_backends(answer: Answer) -> None:
    """What this node takes of the services that were changed."""
    for entry in answer["services"]:
        weight = f"{entry['effective']} of {entry['weight']}"
        Console(highlight=False).print(f"{entry['name']}: {_state(entry['state'])}, weight {weight}")


@_printer
def print_explanation(answer: Answer) -> None:
    """The flow's place in the table, then each node's next step."""
    console = Console(highlight=False)
    console.print(f"{answer['flow']}: service {answer['service']} ({answer['affinity']}, {answer['forward']})")
    for epoch in answer["epochs"]:
        use = "new flows" if epoch["in_use"] else "looked into too"
        console.print(
            f"epoch {epoch['epoch']:#010x} ({use}): hash {epoch['hash']:#010x}, row {epoch['row']}, "
            f"chain {' → '.join(epoch['chain']) or 'empty (no member)'}"
        )
    if answer["denied"]:
        console.print(f"[red]dropped everywhere: the client lies in {answer['denied']}, which is denied[/]")
    console.print(f"tried in this order: {' → '.join(answer['tried']) or 'nobody'}\n")
    table = _table("at node", "a new connection (SYN)", "a packet of a connection it holds", "of one it does not hold")
    for node in answer["nodes"]:
        table.add_row(node["node"], node["syn"], node["held"], node["not_held"])
    console.print(table)


@_printer
def print_denied(answer: Answer) -> None:
    """The deny list, and where each prefix of it stands."""
    console = Console(highlight=False)
    if not answer["denied"]:
        console.print("nobody is denied")
        return
    table = _table("prefix", "from")
    for entry in answer["denied"]:
        table.add_row(entry["prefix"], "the configuration" if entry["configured"] else "lbctl deny add")
    console.print(table)


@_printer
def print_lab(answer: Answer) -> None:
    """The lab's nodes and their interfaces."""
    console = Console(highlight=False)
    console.print(f"lab {answer['name']} ({answer['file']})\n")
    table = _table("node", "pid", "interfaces")
    for node in answer["nodes"]:
        interfaces = [f"{i['name']} {' '.join(i['addresses'])}".strip() for i in node["interfaces"]]
        table.add_row(node["name"], str(node["pid"]) if node["alive"] else "[red]dead[/]", ", ".join(interfaces))
    console.print(table)


@_printer
def print_announcements(answer: Answer) -> None:
    """How each VIP stands at each peer, then who else announces it, then what is wrong."""
    console = Console(highlight=False)
    table = _table("VIP", "peer", "desired", "in adj-rib-out", "session", "since", "why")
    for row in answer["peers"]:
        as_desired = row["out"] == ("no" if row["desired"] == "withdrawn" else "yes")
        out = row["out"] if as_desired else f"[red]{row['out']}[/]"
        table.add_row(
            row["vip"],
            row["peer"],
            row["desired"],
            out,
            _state(row["session"]),
            age(row["since_s"]),
            row["why"],
        )
    console.print(table)
    for vip in answer["vips"]:
        others = ", ".join(vip["others"]) or "[yellow]no other node[/]"
        console.print(f"{vip['vip']} is also announced by {others}")
    for fault in answer["faults"]:
        console.print(f"[red]{fault['severity']}[/]: {fault['text']}")
    if answer["unkept"]:
        console.print(f"[red]orders are not kept over a restart: {answer['unkept']}[/]")


def age(seconds: float) -> str:
    """A duration in its largest unit."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def change_line(change: dict[str, Any]) -> str:
    """One change of how a VIP stands at a peer."""
    return (
        f"{format_time(change['since'])} {change['vip']} at {change['peer']}: {change['desired']}, "
        f"in adj-rib-out: {change['out']}, session {change['session']}: {change['why']}"
    )
