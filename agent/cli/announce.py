# SPDX-License-Identifier: Apache-2.0
"""lbctl announce: what the routers hear of each VIP from this node, and changing it.

Owns these commands and two exit codes of their own: 4 when --wait ran out of time, and the three of `check`, which are
those of a Nagios plugin (0 fine, 1 warning, 2 critical; 3, unknown there, is lbctl's for no agent).
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
from agent.announcing.order import parse_duration
from agent.cli.options import ask, force_option, output_option, show, socket_option, vip_option, vip_query
from agent.model import Method

EXIT_NOT_IN_TIME = 4
POLL_S = 0.1
SEVERITIES = {"warning": 1, "critical": 2}


def _seconds(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


reason_option = click.option("--reason", default="", metavar="TEXT", help="Why; it is kept and shown.")
for_option = click.option(
    "--for", "for_s", callback=_seconds, metavar="TIME",
    help="End by itself after 90s, 10m, 1h30m, 2d; also across restarts and reboots.",
)  # fmt: skip
wait_option = click.option(
    "--wait",
    is_flag=True,
    help="Return when the adj-rib-out of every peer with a session shows it, or with exit code 4.",
)
timeout_option = click.option(
    "--timeout",
    "timeout_s",
    callback=_seconds,
    default="30s",
    show_default=True,
    metavar="TIME",
    help="How long to --wait.",
)


@click.group(
    epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no agent answers, 4 not in time (--wait). "
    "Of `check`: 0 fine, 1 warning, 2 critical, 3 no agent answers."
)
def announce() -> None:
    """What the routers hear of each VIP from this node."""


@announce.command("status")
@socket_option
@output_option
def announce_status(socket: Path, output: str) -> None:
    """Show for each VIP and peer what is desired, what the adj-rib-out holds, the session, since when, and why."""
    from agent.cli.display import print_announcements

    show(ask(socket, "GET", "/announce"), output, print_announcements)


@announce.command()
@socket_option
@output_option
def check(socket: Path, output: str) -> None:
    """Find out whether all that is wanted is announced, for monitoring.

    Exit codes: 0 when every VIP that is wanted is in the adj-rib-out of each peer whose session is up, and one is up;
    1 (warning) when something differs, or a fault keeps a VIP from being announced; 2 (critical) when a wanted VIP is
    announced nowhere, no session is up, or the relay is away; 3 when no agent answers. A line for each fault.
    """
    answer = ask(socket, "GET", "/announce")
    faults, peers = answer["faults"], {row["peer"]: row["session"] for row in answer["peers"]}
    severity = max((SEVERITIES[fault["severity"]] for fault in faults), default=0)
    wanted, sessions = sum(vip["wanted"] for vip in answer["vips"]), list(peers.values())
    up = f"{sessions.count('up')} of {len(sessions)} sessions up"
    fine = f"OK: {wanted} of {len(answer['vips'])} VIPs announced, {up}"
    word = {0: "ok"} | {code: name for name, code in SEVERITIES.items()}
    lines = [f"{fault['severity'].upper()}: {fault['text']}" for fault in faults] or [fine]
    show({"state": word[severity], "faults": faults}, output, lambda _: click.echo("\n".join(lines)))
    sys.exit(severity)


@announce.command()
@vip_option
@socket_option
@output_option
def watch(vip: Address | None, socket: Path, output: str) -> None:
    """Print how each VIP stands at each peer, then every change as it comes, until Ctrl-C (exit code 0).

    With -o json each is a line.
    """
    from agent.cli.client import follow
    from agent.cli.display import change_line

    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have SIGINT ignored in the background
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        for change in follow(socket, "/announce/watch"):
            if vip is None or change["vip"] == str(vip):
                click.echo(json.dumps(change) if output == "json" else change_line(change))


def _do(socket: Path, output: str, resource: str, said: str, wait_s: float | None, query: dict[str, str]) -> None:
    answer = ask(socket, "POST", resource, **query)
    if answer["unkept"]:
        click.echo(f"lbctl: done, but not kept over a restart: {answer['unkept']}", err=True)
    if wait_s is not None:
        wanted = (
            resource == "/announce" or resource.endswith("undrain") or query.get("method", "withdraw") != "withdraw"
        )
        left = _wait(socket, set(answer["vips"]), wanted, wait_s)
        if left:
            for line in left:
                click.echo(f"lbctl: not within {wait_s:g} s: {line}; see `lbctl announce status`", err=True)
            sys.exit(EXIT_NOT_IN_TIME)
    show(answer, output, lambda a: click.echo(f"{said}: {', '.join(a['vips'])}"))


def _wait(socket: Path, vips: set[str], wanted: bool, timeout_s: float) -> list[str]:
    deadline = time.monotonic() + timeout_s
    while left := unsettled(ask(socket, "GET", "/announce"), vips, wanted):
        if time.monotonic() >= deadline:
            break
        time.sleep(POLL_S)
    return left


def unsettled(report: dict[str, Any], vips: set[str], wanted: bool) -> list[str]:
    """What is missing until these VIPs are announced (or not) at every peer with a session, a line each. Pure.

    Where no session is up nothing can be announced, and nothing is; what the relay does not tell is not settled.
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


def _order(*options: Callable[..., Any]) -> Callable[..., Any]:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed((vip_option, *options, wait_option, timeout_option, socket_option, output_option)):
            command = option(command)
        return command

    return decorate


def _query(vip: Address | None, reason: str, for_s: float | None, force: bool) -> dict[str, str]:
    given = {"reason": reason, "for_s": "" if for_s is None else f"{for_s:g}", "force": "yes" if force else ""}
    return vip_query(vip) | {key: value for key, value in given.items() if value}


@announce.command()
@_order(reason_option, for_option, force_option)
def down(
    vip: Address | None, reason: str, for_s: float | None, force: bool, wait: bool, timeout_s: float, socket: Path,
    output: str,
) -> None:  # fmt: skip
    """Withdraw VIPs from the routers. The node goes on serving what reaches it. Refused where it is the last."""
    query = _query(vip, reason, for_s, force)
    _do(socket, output, "/withdraw", "withdrawn", timeout_s if wait else None, query)


@announce.command()
@_order()
def up(vip: Address | None, wait: bool, timeout_s: float, socket: Path, output: str) -> None:
    """Announce VIPs again that were taken down, or that are held down after faults."""
    _do(socket, output, "/announce", "to be announced", timeout_s if wait else None, vip_query(vip))


@announce.command()
@click.option(
    "--method", type=click.Choice([m.value for m in Method]), default=Method.WITHDRAW.value, show_default=True,
    help="withdraw: works everywhere. prepend: the own AS three more times. med: a high MED, which counts among nodes "
    "of one AS. gshut: the community 65535:0 (RFC 8326), for routers that know it.",
)  # fmt: skip
@_order(reason_option, for_option, force_option)
def drain(
    method: str, vip: Address | None, reason: str, for_s: float | None, force: bool, wait: bool, timeout_s: float,
    socket: Path, output: str,
) -> None:  # fmt: skip
    """Have the routers prefer other nodes for VIPs. For the whole node, with its connections, see `lbctl drain`."""
    query = {"method": str(method)} | _query(vip, reason, for_s, force)
    _do(socket, output, "/announce/drain", f"drained ({method})", timeout_s if wait else None, query)


@announce.command()
@_order()
def undrain(vip: Address | None, wait: bool, timeout_s: float, socket: Path, output: str) -> None:
    """End the drain of VIPs."""
    _do(socket, output, "/announce/undrain", "no longer drained", timeout_s if wait else None, vip_query(vip))
