# SPDX-License-Identifier: Apache-2.0
"""lbctl: the table of its commands, and the exit codes.

Nouns group what reads and what changes a thing; each is a module. Output is for people by default, for programs with
`-o json`. Exit codes: 0 done, 1 refused or failed (one line gives the reason and the next step), 2 wrong usage, 3 no
agent answers, 4 not in time (`--wait`), 130 ended by Ctrl-C.

A command's module is imported when the command is used, and imports only what all its commands need; the rest
(pydantic, the data path) is imported inside the command that uses it. Most of the time of a short command is Python's
imports.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from importlib import import_module
from typing import Any, TextIO

import click

from agent.cli.options import fail
from agent.errors import AgentError, NotRunningError
from bgp.errors import BgpError
from bgp.printable import escaped
from bpf.errors import BpfError
from topology.errors import LabError

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
"""numpy's library of linear algebra, which nothing here uses, would start a thread for each CPU when it is imported."""

COMMANDS = {
    # what the node does and knows
    "status": "node",  # [--brief] [--wait [CONDITION]] [--timeout TIME]
    "cluster": "cluster",
    "check": "check",
    "top": "top",  # [--once] [--cluster]
    "drops": "top",
    "events": "events",  # [-f] [--since TIME] [--level LEVEL]
    "doctor": "doctor",
    "explain": "node",  # TUPLE [--live [--at ADDRESS]]
    "connections": "connections",  # [--service NAME]
    "trace": "trace",  # [FILTER] [--service NAME] [--client PREFIX] [--event COUNTER] [--count N] [-w FILE]
    "table": "table_show",  # show | simulate --remove ADDRESS | diff
    "session": "session",  # list | show | kill | watch
    # the whole node, with its connections
    "drain": "node",  # [--force] [--wait [--until-below N] [--timeout TIME]]
    "undrain": "node",
    "leave": "node",  # [--force]
    # a part of it
    "backend": "backend",  # list | drain | undrain | weight
    "announce": "announce",  # status | watch | check | up | down | drain | undrain | config
    "deny": "deny",  # list | add [--force] | del
    "instance": "instance",  # list | switch | drain | undrain | weight | add | remove
    # the services and their configuration
    "reload": "agent",  # [--force]
    "config": "config",  # check | diff | apply | confirm | undo | show | schema
    "key": "key",  # new | rotate | promote | forget [FILE]
    "agent": "agent",  # run | reload | detach | uninstall
    "bgp": "bgp",  # run | reload
    # a cluster on one machine
    "lab": "lab",  # up | down | exec | inspect
    # the release, and help with it
    "support": "support",  # [FILE]
    "version": "version",
}
"""The module of each command in this folder, whose function has the command's name. It is imported when the command is
used, or when --help lists all."""

EXIT_FAILED = 1
EXIT_NOT_RUNNING = 3
EXIT_INTERRUPTED = 130
"""As a shell has it: 128, and SIGINT."""
OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What writing to standard output may fail with: a file there, or a terminal that is gone. A closed pipe is click's."""


class _Main(click.Group):
    """Turns the errors of all four packages, and those of the output, into one line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; its output may be closed, full, or of an encoding that lacks characters."""
        sys.stdin = sys.stdin or _nowhere()  # None where the caller has closed it
        sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if error.filename is not None or error.errno not in OUTPUT_ERRORS:
                raise
            sys.stdout = _nowhere()  # Python would report it a second time at exit
            fail(f"the output is incomplete: {error.strerror}; write it where there is room", EXIT_FAILED)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except NotRunningError as error:
            fail(error, EXIT_NOT_RUNNING)
        except (AgentError, BgpError, BpfError, LabError) as error:
            fail(error, EXIT_FAILED)
        except KeyboardInterrupt:
            click.echo(err=True)  # after the ^C of the terminal
            sys.exit(EXIT_INTERRUPTED)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; one that is not in the table is an error with those that it resembles."""
        if args[0] not in COMMANDS and not args[0].startswith("-") and not context.resilient_parsing:
            close = self._close(context, args[0].lower())
            hint = f" Did you mean {' or '.join(repr(one) for one in close)}?" if close else ""
            raise click.UsageError(f"No such command '{escaped(args[0])}'.{hint}", context)
        return super().resolve_command(context, args)

    def _close(self, context: click.Context, name: str) -> list[str]:
        """Return the commands that a name is the second part of, or the one that it resembles."""
        from difflib import get_close_matches

        if name in COMMANDS:
            return [name]
        nouns = {noun: self.get_command(context, noun) for noun in COMMANDS}
        parts = [
            f"{noun} {name}" for noun, one in nouns.items() if isinstance(one, click.Group) and name in one.commands
        ]
        return parts or get_close_matches(name, COMMANDS, 1)

    def list_commands(self, context: click.Context) -> list[str]:
        """Keep the table's order in --help."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import the command."""
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"agent.cli.{COMMANDS[name]}"), name)
        return command


def _nowhere() -> TextIO:
    return open(os.devnull, "r+", encoding="utf-8")


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="anylb")
def main() -> None:
    """Inspect and operate anylb, the layer-4 load balancer without load-balancer machines."""
