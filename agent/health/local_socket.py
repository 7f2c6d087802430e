# SPDX-License-Identifier: Apache-2.0
"""Whether a service's sockets are where the data path looks for them: in this network namespace. I/O only.

The data path delivers a packet of a connection where the connection's socket is. A container with a published port has
its sockets in its own namespace: the kernel rewrites and passes on what arrives for it, so a health check succeeds, but
no node has the connection, and its second packet is answered with a reset.
"""

from __future__ import annotations

import functools
import logging
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final, Literal

from agent.address import Address, endpoint
from agent.model import Flow, LocalSocket
from agent.netlink.batch import WORLD
from agent.netlink.sock_diag import find_socket
from agent.problem import Problem

log = logging.getLogger("anylb")

_STEP: Final = "a container needs the host's network (--network host), since a published port does not suffice"
_STRANGER_PORT: Final = 1

NO_LISTENER = Problem(
    "nothing in this network namespace listens on {where}",
    "start the service; " + _STEP,
    "The health check succeeds, but no socket here would get the connections. Follows `service NAME:`.",
)
ELSEWHERE = Problem(
    "connections to {where} end in another network namespace, where clients' packets do not find them",
    _STEP,
    "Docker's published port rewrites addresses, so that the node has no socket of the connection. Follows `service "
    "NAME:`.",
)


def missing_listener(
    vip: Address, protocol: Literal["tcp", "udp"], port: int, interfaces: Sequence[str] = ()
) -> str | None:
    """Return what is wrong if no socket here takes new flows; None if one does, or the kernel cannot be asked.

    `interfaces`: those that flows may arrive on, since a socket may be bound to one.
    """
    flow = Flow(protocol, WORLD[vip.version], _STRANGER_PORT, vip, port)
    try:
        if any(find_socket(flow, index) is not LocalSocket.NONE for index in (0, *map(_index, interfaces))):
            return None
    except OSError as error:
        _report(str(error))
        return None
    where = f"{protocol.upper()} {endpoint(vip, port)}"
    return NO_LISTENER.line(where=where)


def remote_end(connected: socket.socket) -> str | None:
    """Return what is wrong if a TCP connection to this node itself has its other end elsewhere; None as above."""
    own, server = connected.getsockname(), connected.getpeername()
    flow = Flow("tcp", ip_address(own[0]), own[1], ip_address(server[0]), server[1])
    try:
        if find_socket(flow) not in (LocalSocket.NONE, LocalSocket.LISTENER):
            return None
    except OSError as error:
        _report(str(error))
        return None
    where = endpoint(ip_address(server[0]), server[1])
    return ELSEWHERE.line(where=where)


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:  # it is disappearing right now
        return 0


@functools.cache
def _report(error: str) -> None:
    """Log once for each error that sockets are not looked for."""
    log.warning("whether services have their sockets in this network namespace is not known: %s", error)
