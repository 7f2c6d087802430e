# SPDX-License-Identifier: Apache-2.0
"""Text output of the agent's responses. Reads the JSON of agent/control, prints it, and decides nothing."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from agent.announcing.order import format_time
from agent.cli.session_line import line_of
from agent.cli.table import Response, printer, state_text, table_of

MAX_ADDRESSES = 5
"""In one line: a cluster may have 1,000 nodes."""


def _bfd(bfd: dict[str, Any] | None) -> str:
    """Return the BFD state of a peer in parentheses, to follow its session's state."""
    if bfd is None:
        return ""
    if bfd["error"]:
        return f" ([red]BFD: {bfd['error']}[/])"
    if bfd["state"] == "up":
        return f" (BFD {state_text('up')}, detection time {bfd['detection_ms']:g} ms)"
    return f" (BFD {state_text(bfd['state'])}{': ' if bfd['diagnostic'] else ''}{bfd['diagnostic']})"


@printer
def print_status(response: Response) -> None:
    """Print the node in a line, then its VIPs, services and members, then problems."""
    console = Console(highlight=False)
    _print_node(console, response)
    _print_peers(console, response["bgp"])
    if (counted := response["connections"]) is not None:
        console.print(f"connections of clients: {counted['held']:,}, counted {age(counted['age_s'])} ago")
    if counted := response["sessions"]:
        used = 1 - counted["free"] / counted["slots"]
        states = ", ".join(f"{counted[name]:,} {name}" for name in ("established", "half-open", "closing", "closed"))
        console.print(f"sessions of NAT: {states}; {used:.0%} of {counted['slots']:,} slots used")
    console.print()
    vips = table_of("VIP", "announced", "why")
    for one in (*response["vips"], *response["pools"]):
        announced = {(True, True): "yes", (True, False): "not yet", (False, True): "still", (False, False): "no"}
        shown = "[yellow]unknown[/]" if one["announced"] is None else announced[one["wanted"], one["announced"]]
        vips.add_row(one.get("vip") or f"{one['pool']} (pool of NAT)", shown, one["why"])
    console.print(vips, "")
    console.print(_services(response["services"]))
    for service in response["services"]:
        if service["local_clients"]:
            console.print(f"[yellow]{service['name']}: {service['local_clients']}[/]")
    console.print()
    _print_instances(console, response["services"])
    console.print(_members(response["members"]))
    _print_agreement(console, response["membership"])
    _print_claims(console, response["claims"])
    for problem in response["problems"]:
        console.print(f"[red]{problem}[/]")


def _print_node(console: Console, response: Response) -> None:
    node, xdp = response["node"], response["xdp"]
    ready = "[green]ready[/]" if response["ready"] else "[red]not ready[/]"
    attached = f"XDP {xdp['mode']} on {xdp['interface']}" if xdp["attached"] else "[red]XDP not attached[/]"
    console.print(
        f"node {node['address']} ({state_text(node['state'])}), cluster {node['cluster']}, {ready}, "
        f"{'XDP off' if xdp['mode'] == 'off' else attached}"
    )
    if len(node["epochs"]) > 1:
        which = "the new table" if node["epoch"] == node["epochs"][0] else "the previous table"
        soon = ", about to change" if node["next_epoch"] is not None else ""
        console.print(f"two epochs: new connections use {which} ({node['epoch']:#x}){soon}")
    if response["fault"]:
        console.print(f"[red]{response['fault']}[/]")
    if xdp["fallback_reason"]:
        console.print(f"[yellow]{xdp['fallback_reason']}[/]")
    for error in response["egress"]["errors"]:
        console.print(f"[yellow]no egress filter: {error}[/]")


def _print_peers(console: Console, bgp: dict[str, Any]) -> None:
    peers = ", ".join(f"{peer['address']} {state_text(peer['state'])}{_bfd(peer['bfd'])}" for peer in bgp["peers"])
    console.print(
        f"BGP peers: {peers or 'none'}"
        + ("" if bgp["relay"] == "connected" else f"; [red]{bgp['relay']}[/]")
        + (f"; [red]{bgp['error']}[/]" if bgp["error"] else "")
    )
    for down in bgp["down"]:
        console.print(f"[red]{down}[/]")


def _services(services: list[dict[str, Any]]) -> Table:
    table = table_of("service", "VIP", "health", "weight", "members (effective)", "table")
    for service in services:
        members = ", ".join(
            f"{m['address']} {m['effective']}" + ("" if m["state"] == "up" else f" {state_text(m['state'])}")
            for m in service["members"]
        )
        table.add_row(
            f"{service['name']} {service['protocol']}",
            service["endpoint"],
            "[green]healthy[/]" if service["healthy"] else f"[red]unhealthy[/] {service['why']}",
            f"{service['effective']}/{service['weight']}",
            members,
            service["digest"],
        )
    return table


def _print_instances(console: Console, services: list[dict[str, Any]]) -> None:
    """Print a line for each service that has instances."""
    lines = [
        f"{service['name']}: {service['instances']['policy']}: "
        + (", ".join(f"{i['name']} {_instance_state(i)}" for i in service["instances"]["instances"]) or "no instance")
        for service in services
        if service["instances"]
    ]
    console.print(*lines, *([""] if lines else []), sep="\n", end="")


def _instance_state(one: dict[str, Any]) -> str:
    colors = {"active": "green", "draining": "yellow", "not listening": "red", "unhealthy": "red"}
    color = colors.get(one["state"])
    return f"[{color}]{one['state']}[/]" if color else str(one["state"])


@printer
def print_instances(response: Response) -> None:
    """Print the instances of some services."""
    table = table_of("service", "policy", "instance", "state", "weight", "listeners", "pid", "")
    for service in response["services"]:
        for one in service["instances"]:
            notes = ["added by hand"] if one["added"] else []
            notes += ["preferred"] if one["name"] == service["preferred"] else []
            notes += [one["why"]] if one["state"] == "unhealthy" else []
            table.add_row(
                service["name"], service["policy"], one["name"], _instance_state(one), str(one["weight"]),
                str(one["listeners"]), str(one["pid"]), ", ".join(notes),
            )  # fmt: skip
        if not service["instances"]:
            table.add_row(service["name"], service["policy"], "[yellow]none found[/]")
    Console(highlight=False).print(table)


def _members(members: list[dict[str, Any]]) -> Table:
    table = table_of("member", "tag", "state", "weights", "since", "epoch", "version", "echo", "last change")
    for m in members:
        address = m["address"]
        if not m["reachable"] and m["state"] != "lost":
            address += " [red]no answer from its next hop[/]"
        weights = ", ".join(f"{name} {s['effective']}/{s['weight']}" for name, s in m["services"].items())
        since = "" if m["since_s"] is None else f"{m['since_s']:.0f} s"
        epoch = "same" if m["has_new_epoch"] else "[yellow]previous only[/]"
        if not m["same_epoch"]:
            epoch = f"[red]{m['epoch']:#x}: different table; its configuration or version differs[/]"
        table.add_row(
            address, str(m["tag"]), state_text(m["state"]), weights, since, epoch, str(m["version"]), _echo(m), m["why"]
        )
    return table


def _echo(member: dict[str, Any]) -> str:
    """Return the round trip time by each way, what is lost, and whether the agent lives."""
    if member["echo"] is None:
        return "this node"
    if member["silent_s"] is not None:
        return f"[red]silent for {age(member['silent_s'])}[/]"
    found = [] if member["echo"]["agent_lives"] else ["[red]its agent does not run[/]"]
    for way, stats in member["echo"]["ways"].items():
        lost = f", [red]{stats['unanswered']} of {stats['asked']} lost[/]" if stats["unanswered"] else ""
        found.append(f"{way} {'-' if stats['rtt_ms'] is None else stats['rtt_ms']} ms{lost}")
    return "; ".join(found)


def _print_agreement(console: Console, membership: dict[str, Any]) -> None:
    """Print whether all nodes agree, and which node some hear and others do not."""
    since = format_time(membership["since"]) if membership["since"] else ""
    if membership["isolated"]:
        console.print("[red]no other node answers this one: it keeps its tables, and takes no new connections[/]")
    if membership["agree"] and membership["nodes"] > 1:
        console.print(f"all {membership['nodes']} nodes agree since {since}")
    for one in membership["differing"]:
        console.print(f"[yellow]{one['address']} differs from this node in its {one['in']} since {since}[/]")
    for one in membership["unreachable"]:
        deaf, others = one["by"], one["reached_by"]
        if others:  # else it is silent for all: its own row shows it
            line = f"{_some(deaf)} {_do(deaf)} not hear {one['address']}; {_some(others)} {_do(others)}"
            console.print(f"[yellow]{line}[/]")


def _print_claims(console: Console, claims: dict[str, Any] | None) -> None:
    """Print which rows have places for nodes that hold connections there, if any."""
    if claims is not None and (claims["given"] or claims["taken"]):
        taken = claims["taken"].values()
        console.print(f"claims: {claims['given']} rows by this node, {sum(taken)} by {len(taken)} others")
    for service, rows in (claims or {}).get("nearly_full", {}).items():
        console.print(
            f"[yellow]{rows} rows of {service} have one place left for nodes that hold connections there: before more "
            "than one node joins, wait until older connections have ended (lbctl connections)[/]"
        )


def _some(addresses: list[str]) -> str:
    """Return the first of many addresses, and how many more there are."""
    shown, more = addresses[:MAX_ADDRESSES], len(addresses) - MAX_ADDRESSES
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _do(addresses: list[str]) -> str:
    return "does" if len(addresses) == 1 else "do"


@printer
def print_explanation(response: Response) -> None:
    """Print the flow's row and chain in each epoch, then each node's decision."""
    console = Console(highlight=False)
    how = ", ".join(str(response[name]) for name in ("affinity", "forward") if response.get(name))
    console.print(f"{response['flow']}: service {response['service'] or 'unknown here'} ({how})")
    for epoch in response["epochs"]:
        use = "for new flows" if epoch["in_use"] else "tried too"
        number = f"hash {epoch['hash']:#010x}, " if "hash" in epoch else ""
        console.print(
            f"epoch {epoch['epoch']:#010x} ({use}): {number}row {epoch['row']}, "
            f"chain {' → '.join(epoch['chain']) or 'empty (no member)'}"
        )
    if "session" in response:
        found = response["session"]
        console.print(
            f"session in slot {found['slot']}: {line_of(found)}" if found else "no session of it on this node"
        )
    if response["denied"]:
        console.print(f"[red]dropped by every node: the client is in {response['denied']}, which is denied[/]")
    tried = [f"{node} (silent)" if node in response["silent"] else node for node in response["tried"]]
    console.print(f"tried in this order: {' → '.join(tried) or 'no node'}\n")
    columns = {"node": "at node", "syn": "a new connection (SYN)", "held": "a packet of a connection it holds"}
    columns |= {"not_held": "of one it does not hold"}
    shown = [name for name in columns if name in response["nodes"][0]]
    table = table_of(*(columns[name] for name in shown))
    for node in response["nodes"]:
        table.add_row(*(node[name] for name in shown))
    console.print(table)


@printer
def print_denied(response: Response) -> None:
    """Print the deny list, and the source of each prefix."""
    console = Console(highlight=False)
    if not response["denied"]:
        console.print("no prefix is denied")
        return
    table = table_of("prefix", "from")
    for entry in response["denied"]:
        table.add_row(entry["prefix"], "the configuration" if entry["configured"] else "lbctl deny add")
    console.print(table)


@printer
def print_lab(response: Response) -> None:
    """Print the lab's nodes and their interfaces."""
    console = Console(highlight=False)
    console.print(f"lab {response['name']} ({response['file']})\n")
    table = table_of("node", "pid", "interfaces")
    for node in response["nodes"]:
        interfaces = [f"{i['name']} {' '.join(i['addresses'])}".strip() for i in node["interfaces"]]
        table.add_row(node["name"], str(node["pid"]) if node["alive"] else "[red]dead[/]", ", ".join(interfaces))
    console.print(table)


@printer
def print_announcements(response: Response) -> None:
    """Print each VIP's and pool's state at each peer, then its other announcers, then the faults."""
    console = Console(highlight=False)
    table = table_of("VIP", "peer", "desired", "in adj-rib-out", "session", "since", "why")
    for row in response["peers"]:
        as_desired = row["out"] == ("no" if row["desired"] == "withdrawn" else "yes")
        out = row["out"] if as_desired else f"[red]{row['out']}[/]"
        table.add_row(
            row["vip"],
            row["peer"],
            row["desired"],
            out,
            state_text(row["session"]),
            age(row["since_s"]),
            row["why"],
        )
    console.print(table)
    for vip in response["vips"]:
        others = ", ".join(vip["others"]) or "[yellow]no other node[/]"
        console.print(f"{vip['vip']} is also announced by {others}")
    for down in response["down"]:
        console.print(f"peer {down}")
    for fault in response["faults"]:
        console.print(f"[red]{fault['severity']}[/]: {fault['text']}")
    if response["save_error"]:
        console.print(f"[red]orders are not stored, so a restart reverts them: {response['save_error']}[/]")


def age(seconds: float) -> str:
    """Return a duration in its largest unit."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def change_line(change: dict[str, Any]) -> str:
    """Return the line of one change of a VIP's state at a peer."""
    return (
        f"{format_time(change['since'])} {change['vip']} at {change['peer']}: {change['desired']}, "
        f"in adj-rib-out: {change['out']}, session {change['session']}: {change['why']}"
    )
