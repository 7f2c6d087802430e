# SPDX-License-Identifier: Apache-2.0
"""lbctl: the table of its commands, and the exit codes.

Nouns group what reads and what changes a thing; each is a module. Output is for people by default, for programs with
`-o json`. Exit codes: 0 done, 1 refused or failed (one line gives the reason and the next step), 2 wrong usage, 3 no
agent answers, 4 not in time (`--wait`).

A command's module imports only what all its commands need; the rest (pydantic, rich, the data path) is imported inside
the command that uses it, since every `lbctl` loads all modules of this table.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from agent.cli.agent import agent
from agent.cli.announce import announce
from agent.cli.backend import backend
from agent.cli.bgp import bgp
from agent.cli.config import config
from agent.cli.connections import connections
from agent.cli.deny import deny
from agent.cli.key import key
from agent.cli.lab import lab
from agent.cli.node import drain, explain, leave, status, undrain
from agent.errors import AgentError, NotRunningError
from bgp.errors import BgpError
from bgp.printable import escaped
from bpf.errors import BpfError
from topology.errors import LabError

COMMANDS = (
    # what the node does and knows
    status,  # [-o json]
    explain,  # TUPLE [--live [--at ADDRESS]]
    connections,  # [--service NAME]
    # the whole node, with its connections
    drain,  # [--force] [--wait [--until-below N] [--timeout TIME]]
    undrain,
    leave,  # [--force]
    # a part of it
    backend,  # list | drain | undrain | weight
    announce,  # status | watch | check | up | down | drain | undrain | config
    deny,  # list | add | del
    # the services and their configuration
    config,  # check
    key,  # new | rotate | promote | forget [FILE]
    agent,  # run | reload | detach
    bgp,  # run | reload
    # a cluster on one machine
    lab,  # up | down | exec | inspect
)

EXIT_FAILED = 1
EXIT_NOT_RUNNING = 3


class _Main(click.Group):
    """Turns the errors of all four packages into one line and an exit code."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except NotRunningError as error:
            _fail(error, EXIT_NOT_RUNNING)
        except (AgentError, BgpError, BpfError, LabError) as error:
            _fail(error, EXIT_FAILED)
        except BrokenPipeError:
            # The reader (head, less) has closed the pipe. Python must not report that again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(EXIT_FAILED)

    def list_commands(self, context: click.Context) -> list[str]:
        """Keep the table's order in --help."""
        return list(self.commands)


def _fail(error: Exception, code: int) -> None:
    for line in str(error).splitlines():
        click.echo(f"lbctl: {escaped(line)}", err=True)
    sys.exit(code)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="anylb")
def main() -> None:
    """Inspect and operate anylb, the layer-4 load balancer without load-balancer machines."""


for _command in COMMANDS:
    main.add_command(_command)
