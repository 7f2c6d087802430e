# SPDX-License-Identifier: Apache-2.0
"""One probe of a server by the type of its check: bounds its time, and makes every failure a reason."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import MappingProxyType

from agent.address import Address, endpoint
from agent.config.health import ExecCheckConfig, HealthConfig, TcpCheckConfig, UdpCheckConfig
from agent.health import tls
from agent.health.command import Command
from agent.health.connection import Reach, any_server, connect
from agent.health.failure import NodeReason, ProbeFailed, SocketElsewhere, shown
from agent.health.http_get import probe_http
from agent.health.payload import probe_tcp, probe_udp

Target = tuple[Address, int]
Probe = Callable[[], Awaitable[tuple[bool, str]]]
"""Returns whether the answer was good, and what it was. Nothing that a service does raises an error."""


_NOTHING: Mapping[str, str] = MappingProxyType({})


def probe_of(
    target: Target | None,
    check: HealthConfig,
    local: bool = False,
    reach: Reach = any_server,
    source: Address | None = None,
    environment: Mapping[str, str] = _NOTHING,
) -> Probe:
    """Return the probe of a check. `target`: the address and port to ask, None for a program.

    `local`: a TCP connection's other end must be in this network namespace. `reach`: which of several servers of the
    port it asks. `source`: from which address; None: the target is this node itself. `environment`: what a program
    gets in its own.
    """
    ask: Callable[[], Awaitable[str]]
    if isinstance(check, ExecCheckConfig):
        where, silence = check.command[0], f"{check.command[0]} did not end"
        ask = Command(check, environment).probe
    else:
        assert target is not None
        where = endpoint(*target)
        silence = f"no answer on {where}"
        opened = partial(connect, *target, local=local, reach=reach, source=source)
        if isinstance(check, TcpCheckConfig):
            ask = partial(probe_tcp, opened, check)
        elif isinstance(check, UdpCheckConfig):
            ask = partial(probe_udp, partial(connect, *target, socket.SOCK_DGRAM, reach=reach, source=source), check)
        else:
            ask = partial(probe_http, opened, where, check)

    async def probe() -> tuple[bool, str]:
        try:
            async with asyncio.timeout(check.timeout_s):
                return True, await ask()
        except TimeoutError:
            return False, f"{silence} in {check.timeout_s:g} s"
        except SocketElsewhere as failure:
            return False, NodeReason(failure)
        except ProbeFailed as failure:
            return False, str(failure)
        except ssl.SSLError as error:
            return False, shown(tls.why(error))
        except OSError as error:  # asyncio's texts repeat the address
            return False, f"{where}: {os.strerror(error.errno) if error.errno else error}"
        except ValueError as error:
            return False, f"{where}: {shown(str(error))}"

    return probe
