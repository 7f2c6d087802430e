# SPDX-License-Identifier: Apache-2.0
"""Errors by which a daemon cannot start: systemd gets the reason, and an exit code that shows whether to retry."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import click

from agent.errors import AgentError, ConfigError
from bgp.errors import BgpError
from bgp.printable import escaped
from bgp.sd_notify import notify, status
from bpf.errors import BpfError

EXIT_CONFIG = 78
"""EX_CONFIG of sysexits.h: lb.yml or a file that it names has an error, which a retry does not mend. The units do not
start the daemon again after it (RestartPreventExitStatus)."""


@contextlib.contextmanager
def start_errors() -> Iterator[None]:
    """Report an error that ends the daemon to systemd, and exit with EXIT_CONFIG if the configuration has it."""
    try:
        yield
    except ConfigError as error:
        notify(status(f"not started: {error}"))
        for line in [*str(error).splitlines(), "not started; correct it, then start this service again"]:
            click.echo(f"lbctl: {escaped(line)}", err=True)
        sys.exit(EXIT_CONFIG)
    except (AgentError, BgpError, BpfError) as error:
        notify(status(f"ended, and is started again: {error}"))
        raise
