# SPDX-License-Identifier: Apache-2.0
"""Text of `lbctl status`: the node in a line, what fails, then its VIPs, services and members, failing ones first.

Reads the JSON of agent/control/status.py, prints it, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent.cli.member_display import agreement_lines, claims_lines, differs, member_table
from agent.cli.table import Response, Table, paint, print_line, printer, state_text
from agent.time_text import age

_INSTANCE_COLORS = {"active": "green", "draining": "yellow", "not listening": "red", "unhealthy": "red"}


@printer
def print_status(response: Response) -> None:
    """Print all of it."""
    print_line(_node(response))
    _print_lines(_failing(response))
    print_line(_peers(response["bgp"]))
    _print_lines(_counted(response))
    for table in (_vips(response), _services(response["services"])):
        print_line()
        table.print()
    _print_lines(_instances(response["services"]))
    print_line()
    member_table(response["members"]).print()
    _print_lines(agreement_lines(response["membership"]))
    _print_lines(claims_lines(response["claims"]))


@printer
def print_brief(response: Response) -> None:
    """Print the node in a line, how many of each kind are well, and what fails."""
    print_line(_node(response))
    _print_lines(_failing(response))
    vips, services, members = (response[kind] for kind in ("vips", "services", "members"))
    counts = [
        (sum(one["announced"] is True for one in vips), vips, "VIPs announced"),
        (sum(one["healthy"] for one in services), services, "services healthy"),
        (sum(not _ails(one) for one in members), members, "members up"),
        (sum(one["state"] == "up" for one in response["bgp"]["peers"]), response["bgp"]["peers"], "BGP sessions up"),
    ]
    print_line("; ".join(f"{count} of {len(ones)} {what}" for count, ones, what in counts))


def _print_lines(lines: Iterator[str]) -> None:
    for line in lines:
        print_line(line)


def _node(response: Response) -> str:
    node, xdp = response["node"], response["xdp"]
    ready = paint("green", "ready") if response["ready"] else paint("red", "not ready")
    attached = f"XDP {xdp['mode']} on {xdp['interface']}" if xdp["attached"] else paint("red", "XDP not attached")
    shown = "XDP off" if xdp["mode"] == "off" else attached
    return f"node {node['address']} ({state_text(node['state'])}), cluster {node['cluster']}, {ready}, {shown}"


def _failing(response: Response) -> Iterator[str]:
    """Yield what fails, or is about to, in a line each."""
    node = response["node"]
    if response["fault"]:
        yield paint("red", response["fault"])
    for problem in response["problems"]:
        yield paint("red", problem)
    for down in response["bgp"]["down"]:
        yield paint("red", f"BGP peer {down}")
    if response["xdp"]["fallback_reason"]:
        yield paint("yellow", response["xdp"]["fallback_reason"])
    for error in response["egress"]["errors"]:
        yield paint("yellow", f"no egress filter: {error}")
    for service in response["services"]:
        if not service["healthy"]:
            yield paint("red", f"{service['name']} is unhealthy: {service['why']}")
        if service["local_clients"]:
            yield paint("yellow", f"{service['name']}: {service['local_clients']}")
    if len(node["epochs"]) > 1:
        new, changes = node["epoch"] == node["epochs"][0], node["next_epoch"] is not None
        which = "the new table" if new else "the previous table"
        step = node.get("end_of_previous")  # an agent of before has none
        then = f"; when all servers do, {step}" if step and new and not changes else ""
        yield f"two epochs: new connections use {which} ({node['epoch']:#x}){', about to change' * changes}{then}"


def _peers(bgp: dict[str, Any]) -> str:
    peers = ", ".join(f"{peer['address']} {state_text(peer['state'])}{_bfd(peer['bfd'])}" for peer in bgp["peers"])
    faults = [bgp["relay"]] if bgp["relay"] != "connected" else []
    faults += [bgp["error"]] if bgp["error"] else []
    return "; ".join([f"BGP peers: {peers or 'none'}", *(paint("red", fault) for fault in faults)])


def _bfd(bfd: dict[str, Any] | None) -> str:
    """Return the BFD state of a peer in parentheses, to follow its session's state."""
    if bfd is None:
        return ""
    if bfd["error"]:
        return f" ({paint('red', 'BFD: ' + bfd['error'])})"
    if bfd["state"] == "up":
        return f" (BFD {state_text('up')}, detection time {bfd['detection_ms']:g} ms)"
    return f" (BFD {state_text(bfd['state'])}{': ' if bfd['diagnostic'] else ''}{bfd['diagnostic']})"


def _counted(response: Response) -> Iterator[str]:
    if (counted := response["connections"]) is not None:
        yield f"connections of clients: {counted['held']:,}, counted {age(counted['age_s'])} ago"
    if counted := response["sessions"]:
        used = 1 - counted["free"] / counted["slots"]
        states = ", ".join(f"{counted[name]:,} {name}" for name in ("established", "half-open", "closing", "closed"))
        yield f"sessions of NAT: {states}; {used:.0%} of {counted['slots']:,} slots used"
    if former := (response["nat"] or {}).get("former"):
        yield _former(former)


def _former(former: dict[str, Any]) -> str:
    """Return what is left of the former pool of NAT."""
    named = f"former pool of NAT {', '.join(former['pools'])}"
    if former["of"]:
        named = f"former nat.sessions {former['of']:,}"
    if former["sessions"] is None:
        return f"{named}: the sessions that are left are being counted"
    since = "" if former["newest_s"] is None else f", none new for {age(former['newest_s'])}"
    elsewhere = f"; {', '.join(former['elsewhere'])} too" if former["elsewhere"] else ""
    if not former["sessions"] and not former["elsewhere"]:
        return f"{named}: no session is left; remove table.previous.nat"
    return f"{named}: {former['sessions']:,} sessions are left{since}{elsewhere}"


def _vips(response: Response) -> Table:
    table = Table("VIP", "announced", "why")
    announced = {(True, True): "yes", (True, False): "not yet", (False, True): "still", (False, False): "no"}
    every = (*response["vips"], *response["pools"])
    for one in sorted(every, key=lambda one: one["announced"] is True and one["wanted"]):
        known = one["announced"] is not None
        shown = announced[one["wanted"], one["announced"]] if known else paint("yellow", "unknown")
        table.add_row(one.get("vip") or f"{one['pool']} (pool of NAT)", shown, one["why"])
    return table


def _services(services: list[dict[str, Any]]) -> Table:
    """Return the services, and how many of their members take new connections; weights are the members' table's."""
    table = Table("service", "VIP", "health", "up", "table", elide="service")
    for service in sorted(services, key=lambda one: one["healthy"]):
        members = service["members"]
        taking = sum(m["state"] == "up" and m["effective"] > 0 for m in members)
        table.add_row(
            f"{service['name']} {service['protocol']}",
            service["endpoint"],
            paint("green", "healthy") if service["healthy"] else paint("red", "unhealthy"),
            f"{taking}/{len(members)}",
            service["digest"],
        )
    return table


def _instances(services: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each service that has instances."""
    for service in services:
        if service["instances"]:
            shown = ", ".join(f"{one['name']} {instance_state(one)}" for one in service["instances"]["instances"])
            yield f"{service['name']}: {service['instances']['policy']}: {shown or 'no instance'}"


def instance_state(one: dict[str, Any]) -> str:
    """Return the state of an instance in its color."""
    return paint(_INSTANCE_COLORS.get(one["state"]), one["state"])


def _ails(member: dict[str, Any]) -> bool:
    return differs(member) or member["state"] != "up"
