# SPDX-License-Identifier: Apache-2.0
"""lbctl trace: packets to VIPs as this node's data path sees them, with what it does with each, and why."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from agent.cli import names
from agent.cli.options import WholeNumber, output_option, socket_option
from agent.errors import AgentError
from bgp.printable import escaped


@click.command()
@click.argument("expression", nargs=-1, metavar="[FILTER]")
@click.option("--service", metavar="NAME", shell_complete=names.services, help="Packets of one service.")
@click.option("--client", metavar="PREFIX", help="Of clients in 192.0.2.0/24, or of 192.0.2.7.")
@click.option("--event", metavar="COUNTER", help="With one end, as drop_grace (docs/counters.md).")
@click.option("--every", type=WholeNumber(1, 1_000_000), default=1, metavar="N", help="One in N of them.")
@click.option("--count", type=WholeNumber(min=1), metavar="N", help="End after N packets.")
@click.option("-w", "--write", type=click.Path(path_type=Path), metavar="FILE", help="Write a pcap file instead.")
@socket_option
@output_option
def trace(
    expression: tuple[str, ...], service: str | None, client: str | None, event: str | None, every: int,
    count: int | None, write: Path | None, socket: Path, output: str,
) -> None:  # fmt: skip
    """Show packets to VIPs, with what becomes of each.

    FILTER is as tcpdump's (pcap-filter(7)), over the first 128 bytes: `lbctl trace tcp port 443 and host 192.0.2.7`.
    A frame is shown as it leaves the program: forwarded (without a tunnel's headers), or as it came. It ends by Ctrl-C.
    The options select in the kernel, where packets are many: begin with them. Meanwhile each packet of the node costs
    some 20 ns more; without a trace none does.
    """
    from agent.cli.pcap import PcapFile, PcapFilter

    wanted = PcapFilter(" ".join(expression)) if expression else None
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have SIGINT ignored in the background
        signal.signal(number, signal.default_int_handler)
    query = {"service": service, "client": client, "event": event, "every": str(every)}
    found, file = 0, None
    with _file_errors(write), contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        samples = _samples(socket, {name: value for name, value in query.items() if value is not None})
        next(samples)  # when it has begun: an earlier file stays if it cannot
        file = PcapFile(stack.enter_context(_open(write))) if write else None
        click.echo("tracing; Ctrl-C ends it", err=True)
        for one in samples:
            head = bytes.fromhex(one["head"])
            if wanted is not None and not wanted.matches(head, one["length"]):
                continue
            if file is not None:
                file.write(one["time_s"], head, one["length"])
            else:
                click.echo(json.dumps(one) if output == "json" else escaped(line_of(one)))
            found += 1
            if found == count:
                break
    if file is not None:
        click.echo(f"{write}: {found} packets", err=True)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}", param_hint="--write") from None


@contextlib.contextmanager
def _file_errors(path: Path | None) -> Iterator[None]:
    """Raise AgentError for what prevents writing to a file; without one an OSError is of the output."""
    try:
        yield
    except OSError as error:
        if path is None:
            raise
        raise AgentError(f"{path}: {error.strerror}; name a file where there is room") from None


def _samples(socket: Path, query: dict[str, str]) -> Iterator[dict[str, Any]]:
    from agent.cli.client import follow

    yield from follow(socket, "/trace", **query)


def line_of(one: dict[str, Any]) -> str:
    """Return a sample as a line: time, interface, packet, what became of it, and why."""
    import time

    from agent.cli.packet_line import packet_line

    stamp = time.strftime("%H:%M:%S", time.localtime(one["time_s"])) + f"{one['time_s'] % 1:.6f}"[1:]
    service = one["service"] or "-"
    hop = f" hop {one['hop']}" if one["hop"] else ""
    packet = packet_line(bytes.fromhex(one["head"]), one["length"])
    return f"{stamp} {one['interface']} {service}{hop} {packet}: {one['event']}, {one['why']}"
