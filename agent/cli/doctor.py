# SPDX-License-Identifier: Apache-2.0
"""lbctl doctor: everything about this machine that its part depends on, one line each, with the next step."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import config_option, output_option, show, socket_option
from agent.errors import AgentError
from bgp.printable import escaped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config.schema import Config
    from agent.doctor.findings import Finding

ASK_S = 2.0
MARKS = {"ok": "ok", "warning": "WARN", "failed": "FAIL", "skipped": "skip"}


@click.command()
@config_option
@socket_option
@output_option
def doctor(path: Path, socket: Path, output: str) -> None:
    """Look for what is wrong with this machine.

    Kernel, BPF, interfaces, ARP, VIPs, listeners, clock, disk and memory; the configuration; and what the agent knows:
    members, BGP, tables. It changes nothing, and is safe on a live node. Exit code 1 if something failed.
    """
    found = list(_all(path, socket))
    failed = any(one.state == "failed" for one in found)
    show({"ok": not failed, "findings": [one.to_json() for one in found]}, output, _print)
    sys.exit(1 if failed else 0)


def _all(path: Path, socket: Path) -> Iterator[Finding]:
    from agent.config import file
    from agent.doctor.findings import Finding, State, findings

    try:
        config = file.load_without_secrets(path)
    except AgentError as error:
        yield Finding(
            "configuration", State.FAILED, str(error), "correct the file; the running agent keeps the last one"
        )
        config = None
    else:
        yield Finding("configuration", State.OK, f"{path} is valid")
    yield from findings(_machine(config))
    yield from _agent(socket)


def _machine(config: Config | None) -> Any:
    from agent.doctor.machine import read_machine
    from agent.model import Port

    if config is None:
        return read_machine((), (), {})
    own = [service for service in config.services if service.mode == "dsr"]
    ports = {one.name: Port(one.protocol, one.port_number) if one.port_number else None for one in own}
    return read_machine(config.node.names, config.local_vips, ports)


def _agent(socket: Path) -> Iterator[Finding]:
    from agent.cli.client import call_within
    from agent.doctor.findings import Finding, State

    try:
        response = call_within(socket, "GET", "/check", ASK_S)
    except AgentError as error:
        yield Finding("agent", State.FAILED, str(error), "see `systemctl status lb-agent` and `journalctl -u lb-agent`")
        return
    yield Finding("agent", State.OK, response["summary"])
    for fault in response["faults"]:
        state = State.FAILED if fault["severity"] == "critical" else State.WARNING
        yield Finding("node", state, fault["text"])


def _print(response: dict[str, Any]) -> None:
    order = {"failed": 0, "warning": 1, "skipped": 2, "ok": 3}
    for one in sorted(response["findings"], key=lambda one: order[one["state"]]):
        click.echo(escaped(f"{MARKS[one['state']]:<4}  {one['subject']}: {one['text']}"))
        if one["step"]:
            click.echo(escaped(f"      next: {one['step']}"))
