# SPDX-License-Identifier: Apache-2.0
"""Text output of `lbctl explain --live`: a packet's walk, two lines for each node."""

from __future__ import annotations

from typing import Any

import click

from bgp.printable import escaped

_SOCKETS = {
    "none": "no socket",
    "connection": "the connection",
    "time-wait": "a TIME-WAIT socket",
    "listener": "a listener, but not the connection",
    "unknown": "sockets unknown: its kernel could not be asked (see its log)",
}


def print_walks(response: dict[str, Any]) -> None:
    """Print each packet's walk: what each node does with it, then what the node knows."""
    click.echo(escaped(f"{response['flow']}: service {response['service']}"))
    for walk in response["walks"]:
        click.echo(f"\n{escaped(walk['packet'])}")
        for step in walk["steps"]:
            for line in _lines(step):
                click.echo(escaped(line))


def _lines(step: dict[str, Any]) -> list[str]:
    arrival = f"hop {step['hop']} from {step['prev']}" if step["prev"] else "from the router"
    if not step["answers"]:
        return [f"  {step['node']} ({arrival}): does not answer within 1 s; see `lbctl status` here and there"]
    verdict = step["event"] + (f" to {step['to']}" if step["to"] else "")
    why = f": {step['why']}" if step["why"] else ""
    known = [f"has {_SOCKETS.get(step['socket'], step['socket'])}"]
    if step["epoch"] is not None:
        known += [
            "takes new connections" if step["up"] else "takes no new connections",
            *(["the row has just changed (grace)"] if step["grace"] else []),
            f"chain {' → '.join(_node(node, step) for node in step['chain']) or 'empty'}",
        ]
    return [f"  {step['node']} ({arrival}): {verdict}{why}", f"    {'; '.join(known)}"]


def _node(node: str, step: dict[str, Any]) -> str:
    """Return a node of the chain, with what keeps the packet from going there."""
    found = [name for name in ("silent", "unreachable", "awaited") if node in step[name]]
    return f"{node} ({', '.join(found)})" if found else node
