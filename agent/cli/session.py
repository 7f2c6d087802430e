# SPDX-License-Identifier: Apache-2.0
"""lbctl session: the sessions of NAT services on this node."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from agent.cli import names
from agent.cli.options import WholeNumber, output_option, request, show, socket_option
from agent.cli.session_line import line_of
from bgp.printable import escaped

STATES = ("half-open", "established", "closing", "closed")


def _selecting(states: tuple[str, ...]) -> Callable[..., Any]:
    options = (
        click.option("--service", metavar="NAME", shell_complete=names.services, help="Of one service."),
        click.option("--client", metavar="PREFIX", help="Of clients in 192.0.2.0/24, or of 192.0.2.7."),
        click.option("--backend", metavar="ADDRESS[:PORT]", help="With one backend."),
        click.option("--pool", metavar="PREFIX", help="With NAT addresses in 10.255.0.0/27."),
        click.option("--state", type=click.Choice(states), help="In one state."),
    )

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed((*options, socket_option, output_option)):
            command = option(command)
        return command

    return decorate


def _query(**given: str | None) -> dict[str, str]:
    return {name: value for name, value in given.items() if value is not None}


@click.group()
def session() -> None:
    """The sessions of NAT services on this node.

    A session is half-open until its backend has answered, and for TCP the client acknowledged that; closing after a
    FIN; closed after both or a RST, for as long as its NAT endpoint is not given again.
    """


@session.command("list")
@click.option("--limit", type=WholeNumber(min=1), metavar="N", help="N sessions at most.")
@_selecting(STATES)
def session_list(
    limit: int | None, service: str | None, client: str | None, backend: str | None, pool: str | None,
    state: str | None, socket: Path, output: str,
) -> None:  # fmt: skip
    """List sessions: all, or those that match every option.

    A million sessions are listed while packets flow; each is shown as it was at one moment.
    """
    chosen = _query(service=service, client=client, backend=backend, pool=pool, state=state)
    query = chosen | _query(limit=str(limit) if limit else None)
    count = 0
    for page in _pages(socket, "/sessions", query):
        if output == "json":
            start = "," if count else '{"sessions": ['
            click.echo(start + ",".join(f"\n{json.dumps(one)}" for one in page), nl=False)
        else:
            click.echo("\n".join(escaped(line_of(one)) for one in page))
        count += len(page)
    if output == "json":
        click.echo("\n]}" if count else '{"sessions": []}')
    else:
        click.echo(f"{count:,} sessions", err=True)


@session.command("show")
@click.argument("session", metavar="SESSION")
@socket_option
@output_option
def session_show(session: str, socket: Path, output: str) -> None:
    """Show one session.

    SESSION is what its backend sees as the client (10.255.0.3:40000), its slot's number, or
    tcp,192.0.2.7:41000,10.99.0.1:443.
    """
    show(request(socket, "GET", "/sessions/one", of=session), output, _print_one)


@session.command("kill")
@click.option(
    "--all", "every", is_flag=True, help="Also without a selection, or by prefixes shorter than /8 (IPv6: /16) alone."
)
@_selecting(STATES[:-1])
def session_kill(
    every: bool, service: str | None, client: str | None, backend: str | None, pool: str | None, state: str | None,
    socket: Path, output: str,
) -> None:  # fmt: skip
    """Close the sessions that match every option.

    The next segment of their clients is answered with a RST. Without an option, or with short prefixes alone, it names
    how many would be closed: --all closes them.
    """
    chosen = _query(service=service, client=client, backend=backend, pool=pool, state=state)
    query = chosen | _query(all="yes" if every else None)
    response = request(socket, "POST", "/sessions/kill", **query)
    show(response, output, lambda found: click.echo(f"{found['closed']:,} sessions closed"))


@session.command("watch")
@_selecting((*STATES, "free"))
def session_watch(
    service: str | None, client: str | None, backend: str | None, pool: str | None, state: str | None, socket: Path,
    output: str,
) -> None:  # fmt: skip
    """Print each change of a session's state as it happens.

    Ends by Ctrl-C (exit code 0). With -o json, one object a line. While nothing is watched, nothing is spent on it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have SIGINT ignored in the background
        signal.signal(number, signal.default_int_handler)
    query = _query(service=service, client=client, backend=backend, pool=pool, state=state)
    with contextlib.suppress(KeyboardInterrupt):
        for page in _pages(socket, "/sessions/watch", query):
            click.echo("\n".join(json.dumps(one) if output == "json" else escaped(line_of(one)) for one in page))


def _pages(socket: Path, resource: str, query: dict[str, str]) -> Iterator[list[dict[str, Any]]]:
    """Yield the sessions of each of the agent's pages; show how many events are missing."""
    from agent.cli.client import follow
    from agent.sessions.page import Names, decode

    lines = follow(socket, resource, **query)
    head = next(lines)
    names = Names({int(slot): name for slot, name in head["services"].items()})
    for page in lines:
        if page.get("end"):
            return
        if page.get("missed"):
            click.echo(f"lbctl: at least {page['missed']:,} changes are missing here: too fast", err=True)
        if found := list(decode(page, names)):
            yield found


def _print_one(one: dict[str, Any]) -> None:
    for name, value in one.items():
        text = " ".join(value) if isinstance(value, list) else f"{value} s" if name.endswith("_s") else str(value)
        click.echo(escaped(f"{name.removesuffix('_s'):<9} {text}"))
