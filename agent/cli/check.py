# SPDX-License-Identifier: Apache-2.0
"""lbctl check: a Nagios plugin about this node; and the wait of `lbctl status --wait`.

Owns its exit codes: 0 ok, 1 warning, 2 critical, 3 unknown. An agent that is dead or hangs is critical. A user who may
not ask gets unknown: nothing is known to be wrong.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from agent.cli.options import output_option, show, socket_option
from agent.errors import AgentError, NotPermittedError, NotRunningError
from bgp.printable import escaped

CHECK_TIMEOUT_S = 1.5
"""An agent answers within milliseconds; one that is stopped is reported within 2 s."""
POLL_S = 0.1
CODES = {"ok": 0, "warning": 1, "critical": 2, "unknown": 3}
CONDITIONS = ("ready", "announced", "healthy")


@click.command()
@socket_option
@output_option
def check(socket: Path, output: str) -> None:
    """Check this node, for monitoring.

    Prints one line, with a Nagios plugin's exit codes: 0 (ok); 1 (warning): something is wrong, and clients are served;
    2 (critical): a service is taken from clients or soon may be, or no agent answers within 1.5 s; 3 (unknown): this
    user may not ask. It needs no root: members of the group anylb may ask.
    """
    found = verdict(socket)
    show(found, output, lambda response: click.echo(line_of(response)))
    sys.exit(CODES[found["state"]])


def verdict(socket: Path) -> dict[str, Any]:
    """Return the agent's verdict (agent/control/check.py), or one on why there is none."""
    from agent.cli.client import call_within

    try:
        return call_within(socket, "GET", "/check", CHECK_TIMEOUT_S)
    except NotPermittedError as error:
        return _own("unknown", str(error))
    except NotRunningError as error:
        return _own("critical", f"{error}; see `systemctl status lb-agent`")
    except AgentError as error:
        return _own("unknown", str(error))


def _own(state: str, text: str) -> dict[str, Any]:
    return {"state": state, "faults": [{"severity": state, "text": text}], "summary": "", "figures": {}}


def line_of(verdict: dict[str, Any]) -> str:
    """Return the verdict in a line: state, faults or what is well, and figures after a bar."""
    texts = [fault["text"] for fault in verdict["faults"]] or [verdict["summary"]]
    figures = " ".join(f"{name}={value}" for name, value in verdict["figures"].items())
    text = escaped("; ".join(texts).replace("|", "/"))
    return f"{verdict['state'].upper()}: {text}" + (f" | {figures}" if figures else "")


def wait_for(socket: Path, condition: str, timeout_s: float) -> str | None:
    """Wait until the node is as desired; return what is missing if it is not in time. Raises AgentError."""
    deadline = time.monotonic() + timeout_s
    while (missing := _missing(socket, condition)) is not None and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return missing


def _missing(socket: Path, condition: str) -> str | None:
    from agent.cli.client import call_within

    if condition == "healthy":
        found = verdict(socket)
        if found["state"] == "unknown":
            raise AgentError(found["faults"][0]["text"])
        return None if found["state"] == "ok" else line_of(found).partition(" | ")[0]
    try:
        status = call_within(socket, "GET", "/status", CHECK_TIMEOUT_S)
    except NotRunningError as error:
        return str(error)
    if not status["ready"]:
        return str(status["fault"] or "it does not forward yet, or does not know the members")
    absent = [one["vip"] for one in status["vips"] if condition == "announced" and not one["announced"]]
    return f"not announced: {', '.join(absent)}" if absent else None
