# SPDX-License-Identifier: Apache-2.0
"""lbctl doctor: everything about this machine that its part depends on, one line each, with the next step."""

from __future__ import annotations

import sys
import time
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import config_option, output_option, show, socket_option
from agent.doctor.findings import Finding, State
from agent.errors import AgentError, NotPermittedError
from bgp.printable import escaped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.address import Address
    from agent.config.schema import Config

ASK_S = 2.0
COUNT_S = 1.0
"""For how long resets are counted."""
MAX_PINGED = 64
MARKS = {"ok": "ok", "warning": "WARN", "failed": "FAIL", "skipped": "skip"}


@click.command()
@config_option
@socket_option
@output_option
def doctor(path: Path, socket: Path, output: str) -> None:
    """Look for what is wrong with this machine.

    Kernel, BPF, interfaces, ARP, VIPs, listeners, clock, disk and memory; the configuration; which packet sizes nodes
    and routers answer; whether connections are reset here; and what the agent knows: members, BGP, tables. It changes
    nothing, takes a second, and is safe on a live node. Exit code 1 if something failed.
    """
    found = list(_all(path, socket))
    failed = any(one.state == "failed" for one in found)
    show({"ok": not failed, "findings": [one.to_json() for one in found]}, output, _print)
    sys.exit(1 if failed else 0)


def _all(path: Path, socket: Path) -> Iterator[Finding]:
    from agent.config import file
    from agent.doctor.findings import findings

    try:
        config = file.load_without_secrets(path)
    except AgentError as error:
        text, step = str(error), "correct the file; the running agent keeps the last one"
        if text.startswith(f"{path}: "):  # of the file as a whole, as that it is missing
            text, _, own_step = text.partition("; ")
            step = own_step or step
        yield Finding("configuration", State.FAILED, text, step)
        config = None
    else:
        yield Finding("configuration", State.OK, f"{path} is valid")
    machine = _machine(config)
    yield from findings(machine)
    yield from _traffic(machine, socket)
    yield from _agent(socket)


def _machine(config: Config | None) -> Any:
    from agent.doctor.machine import read_machine
    from agent.model import Port

    if config is None:
        return read_machine((), (), {})
    own = [service for service in config.services if service.mode == "dsr"]
    ports = {one.name: Port(one.protocol, one.port_number) if one.port_number else None for one in own}
    return read_machine(config.node.names, config.local_vips, ports)


def _traffic(machine: Any, socket: Path) -> Iterator[Finding]:
    """Yield what is found by watching connections for a second, and pinging the nodes and routers."""
    from agent.doctor.path_mtu import largest_answered
    from agent.doctor.tcp_count import read_tcp_count
    from agent.doctor.traffic_findings import path_findings, reset_finding

    began, before = time.monotonic(), read_tcp_count()
    mtu = min((one.mtu for one in machine.interfaces.values() if one.mtu), default=None)
    addresses = _others(socket)
    if machine.root and mtu is not None and addresses:
        try:
            yield from path_findings(largest_answered(addresses, mtu), mtu)
        except OSError as error:
            yield Finding("paths", State.SKIPPED, f"pings are not permitted: {error.strerror}", "run lbctl as root")
    time.sleep(max(0.0, began + COUNT_S - time.monotonic()))
    yield reset_finding(before, read_tcp_count(), time.monotonic() - began)


def _others(socket: Path) -> list[Address]:
    """Return the routers and the other nodes that the agent knows, some of them if there are many."""
    from agent.cli.client import call_within

    try:
        status = call_within(socket, "GET", "/status", ASK_S)
    except AgentError:
        return []  # which `_agent` names
    routers = [one["address"].partition("%")[0] for one in status["bgp"]["peers"]]
    nodes = [one["address"] for one in status["members"] if one["echo"] is not None and one["silent_s"] is None]
    return [ip_address(one) for one in [*routers, *nodes][:MAX_PINGED]]


def _agent(socket: Path) -> Iterator[Finding]:
    from agent.cli.client import call_within

    try:
        response = call_within(socket, "GET", "/check", ASK_S)
    except NotPermittedError as error:
        text, _, step = str(error).partition("; ")
        yield Finding("agent", State.SKIPPED, text, step)
        return
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
