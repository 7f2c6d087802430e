# SPDX-License-Identifier: Apache-2.0
"""lbctl support: an archive of what others need to help with a node. Keys and passwords are not in it.

What it takes in are outputs of commands that only read, and the configuration, which names secret files but has none.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from agent import private_file
from agent.cli.options import config_option, socket_option
from agent.errors import AgentError

TIMEOUT_S = 10.0
MAX_BYTES = 4_000_000
"""Of each file: the last bytes are kept."""
LBCTL = (sys.executable, "-c", "from agent.cli.main import main; main()")
READ = (
    ("version", "version"),
    ("status", "status", "-o", "json"),
    ("check", "check", "-o", "json"),
    ("announce", "announce", "status", "-o", "json"),
    ("connections", "connections", "-o", "json"),
    ("deny", "deny", "list", "-o", "json"),
)
"""Commands of lbctl, each after the name of its file."""
SYSTEM = (
    ("journal", "journalctl", "--no-pager", "-n", "5000", "-u", "lb-agent", "-u", "lb-bgp"),
    ("units", "systemctl", "--no-pager", "status", "lb-agent", "lb-bgp"),
    ("addresses", "ip", "-d", "address"),
    ("routes", "ip", "route", "show", "table", "all"),
    ("rules", "ip", "rule"),
    ("neighbors", "ip", "neighbor"),
    ("links", "ip", "-s", "-d", "link"),
    ("packages", "dpkg-query", "-W", "anylb", "python3-bpfcc", "libbpfcc", "linux-image-*"),
)


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@config_option
@socket_option
def support(file: Path | None, path: Path, socket: Path) -> None:
    """Write an archive for those who help.

    FILE is anylb-support-TIME.tar.gz by default. It has the node's state, configuration, log, addresses and routes.
    Keys and passwords are not in it; addresses are: look through it before you send it on.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    target = file or Path(f"anylb-support-{stamp}.tar.gz")
    try:
        descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as out, tarfile.open(fileobj=out, mode="w:gz") as archive:
                for name, data in _contents(path, socket):
                    entry = tarfile.TarInfo(f"anylb-support-{stamp}/{name}")
                    entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
                    archive.addfile(entry, io.BytesIO(data))
        except BaseException:  # Ctrl-C too: half of an archive is of no use
            target.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise AgentError(
            f"{target}: {error.strerror}; name a new file where you may write, and there is room"
        ) from None
    if os.geteuid() != 0:
        click.echo("lbctl: not root, so parts are missing: run it as root for all of them", err=True)
    click.echo(f"{target}: {target.stat().st_size / 1e3:.0f} kB; look through it before you send it on")


def _contents(path: Path, socket: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with os.fdopen(private_file.open_file(path, os.O_RDONLY), "rb") as file:
            yield "lb.yml", file.read(MAX_BYTES)
    except OSError as error:
        yield "lb.yml", f"{path}: {error.strerror}\n".encode()
    for name, *arguments in READ:
        given = [] if name == "version" else ["-s", str(socket)]
        yield f"{name}.txt", output_of([*LBCTL, *arguments, *given])
    yield "doctor.txt", output_of([*LBCTL, "doctor", "-c", str(path), "-s", str(socket)])
    for name, *command in SYSTEM:
        yield f"{name}.txt", output_of(command)


def output_of(command: list[str]) -> bytes:
    """Return what a command prints, or why it cannot run: an archive with a gap is better than none."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}\n".encode()
    return done.stdout[-MAX_BYTES:]
