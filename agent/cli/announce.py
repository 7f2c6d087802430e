# SPDX-License-Identifier: Apache-2.0
"""lbctl announce: each VIP's announcement to each router, and changing it.

Owns two kinds of exit codes: 4 if --wait times out, and those of `check`, which are a Nagios plugin's (0 ok, 1 warning,
2 critical; 3, unknown there, is lbctl's for no agent).
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from agent.address import Address
from agent.cli.options import (
    EXIT_NOT_IN_TIME,
    force_option,
    output_option,
    request,
    seconds,
    show,
    socket_option,
    vip_option,
    vip_query,
)
from agent.cli.router_config import router_config
from agent.model import Method

POLL_S = 0.1
SEVERITIES = {"warning": 1, "critical": 2}


reason_option = click.option("--reason", default="", metavar="TEXT", help="The reason; stored and shown.")
for_option = click.option(
    "--for", "for_s", callback=seconds, metavar="TIME",
    help="End automatically after 90s, 10m, 1h30m or 2d, also if the node restarts or reboots meanwhile.",
)  # fmt: skip
wait_option = click.option(
    "--wait",
    is_flag=True,
    help="Return once the adj-rib-out of every peer with a session shows the change; exit code 4 if it is not in time.",
)
timeout_option = click.option(
    "--timeout",
    "timeout_s",
    callback=seconds,
    default="30s",
    show_default=True,
    metavar="TIME",
    help="Time limit of --wait.",
)


@click.group(
    epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no agent answers, 4 not in time (--wait). "
    "Of `check`: 0 ok, 1 warning, 2 critical, 3 no agent answers."
)
def announce() -> None:
    """This node's announcements of its VIPs to the routers."""


@announce.command("status")
@socket_option
@output_option
def announce_status(socket: Path, output: str) -> None:
    """Show each VIP's state at each peer.

    What is desired, what the adj-rib-out holds, the session, since when, and why.
    """
    from agent.cli.display import print_announcements

    show(request(socket, "GET", "/announce"), output, print_announcements)


@announce.command()
@socket_option
@output_option
def check(socket: Path, output: str) -> None:
    """Check that every wanted VIP is announced, for monitoring.

    Exit codes: 0 when every VIP that is wanted is in the adj-rib-out of each peer whose session is up, and at least one
    session is up; 1 (warning) when something differs, or a fault prevents the announcement of a VIP; 2 (critical) when
    a wanted VIP is announced to no peer, no session is up, or the relay is disconnected; 3 when no agent answers.
    Prints one line for each fault.
    """
    report = request(socket, "GET", "/announce")
    faults, peers = report["faults"], {row["peer"]: row["session"] for row in report["peers"]}
    severity = max((SEVERITIES[fault["severity"]] for fault in faults), default=0)
    wanted, sessions = sum(vip["wanted"] for vip in report["vips"]), list(peers.values())
    up = f"{sessions.count('up')} of {len(sessions)} sessions up"
    ok = "; ".join([f"OK: {wanted} of {len(report['vips'])} VIPs announced, {up}", *report["down"]])
    states = {0: "ok"} | {code: name for name, code in SEVERITIES.items()}
    lines = [f"{fault['severity'].upper()}: {fault['text']}" for fault in faults] or [ok]
    show({"state": states[severity], "faults": faults}, output, lambda _: click.echo("\n".join(lines)))
    sys.exit(severity)


@announce.command()
@vip_option
@socket_option
@output_option
def watch(vip: Address | None, socket: Path, output: str) -> None:
    """Print changes of VIPs at peers as they happen.

    Prints the current state of each first, and ends by Ctrl-C (exit code 0). With -o json, one object a line.
    """
    from agent.cli.client import follow
    from agent.cli.display import change_line

    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have SIGINT ignored in the background
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        for change in follow(socket, "/announce/watch"):
            if vip is None or change["vip"] == str(vip):
                click.echo(json.dumps(change) if output == "json" else change_line(change))


def _change(
    socket: Path, output: str, resource: str, query: dict[str, str], done: str, wanted: bool, wait_s: float | None
) -> None:
    """Request a change, wait for it where `wait_s` is a time limit, and print `done`.

    `wanted`: whether the peers will have the VIPs in their adj-rib-out.
    """
    response = request(socket, "POST", resource, **query)
    if response["save_error"]:
        click.echo(f"lbctl: done, but not stored, so a restart reverts it: {response['save_error']}", err=True)
    missing = [] if wait_s is None else _wait(socket, set(response["vips"]), wanted, wait_s)
    if missing:
        for line in missing:
            click.echo(f"lbctl: not within {wait_s:g} s: {line}; see `lbctl announce status`", err=True)
        sys.exit(EXIT_NOT_IN_TIME)
    show(response, output, lambda r: click.echo(f"{done}: {', '.join(r['vips'])}"))


def _wait(socket: Path, vips: set[str], wanted: bool, timeout_s: float) -> list[str]:
    deadline = time.monotonic() + timeout_s
    while missing := unsettled(request(socket, "GET", "/announce"), vips, wanted):
        if time.monotonic() >= deadline:
            break
        time.sleep(POLL_S)
    return missing


def unsettled(report: dict[str, Any], vips: set[str], wanted: bool) -> list[str]:
    """Return what is missing until every peer with a session has these VIPs (or has none of them), a line each. Pure.

    With no session up, nothing can be announced and nothing is left to withdraw. With no relay, nothing is settled.
    """
    if report["relay"] != "connected":
        return [report["relay"]]
    result = [f"{v['vip']}: {v['why']}" for v in report["vips"] if v["vip"] in vips and v["wanted"] != wanted]
    up = [row for row in report["peers"] if row["vip"] in vips and row["session"] == "up"]
    if wanted and not up:
        result.append("no BGP session is up")
    goal = "yes" if wanted else "no"
    return result + [
        f"{row['vip']} at {row['peer']}: in the adj-rib-out: {row['out']}" for row in up if row["out"] != goal
    ]


def _order_options(*options: Callable[..., Any]) -> Callable[..., Any]:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed((vip_option, *options, wait_option, timeout_option, socket_option, output_option)):
            command = option(command)
        return command

    return decorate


def _query(vip: Address | None, reason: str, for_s: float | None, force: bool) -> dict[str, str]:
    given = {"reason": reason, "for_s": "" if for_s is None else f"{for_s:g}", "force": "yes" if force else ""}
    return vip_query(vip) | {key: value for key, value in given.items() if value}


@announce.command()
@_order_options(reason_option, for_option, force_option)
def down(
    vip: Address | None, reason: str, for_s: float | None, force: bool, wait: bool, timeout_s: float, socket: Path,
    output: str,
) -> None:  # fmt: skip
    """Withdraw VIPs from the routers.

    The node still serves what reaches it. Refused if no other node announces a VIP.
    """
    query = _query(vip, reason, for_s, force)
    _change(socket, output, "/withdraw", query, "withdrawn", False, timeout_s if wait else None)


@announce.command()
@_order_options()
def up(vip: Address | None, wait: bool, timeout_s: float, socket: Path, output: str) -> None:
    """Announce VIPs again.

    Ends `down`, and the hold-down of a VIP after faults.
    """
    _change(socket, output, "/announce", vip_query(vip), "to be announced", True, timeout_s if wait else None)


@announce.command()
@click.option(
    "--method", type=click.Choice([m.value for m in Method]), default=Method.WITHDRAW.value, show_default=True,
    help="withdraw: works with every router. prepend: the own AS three more times. med: a high MED, compared among "
    "nodes of one AS. gshut: the community 65535:0 (RFC 8326), for routers that support it.",
)  # fmt: skip
@_order_options(reason_option, for_option, force_option)
def drain(
    method: str, vip: Address | None, reason: str, for_s: float | None, force: bool, wait: bool, timeout_s: float,
    socket: Path, output: str,
) -> None:  # fmt: skip
    """Have the routers prefer other nodes for VIPs.

    For the whole node with its connections: `lbctl drain`.
    """
    query = {"method": method} | _query(vip, reason, for_s, force)
    wanted = method != Method.WITHDRAW
    _change(socket, output, "/announce/drain", query, f"drained ({method})", wanted, timeout_s if wait else None)


@announce.command()
@_order_options()
def undrain(vip: Address | None, wait: bool, timeout_s: float, socket: Path, output: str) -> None:
    """End the drain of VIPs."""
    _change(socket, output, "/announce/undrain", vip_query(vip), "no longer drained", True, timeout_s if wait else None)


announce.add_command(router_config, "config")
