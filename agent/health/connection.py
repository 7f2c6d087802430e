# SPDX-License-Identifier: Apache-2.0
"""A socket to a server for one probe. Bounds how much of an answer is read, and how often.

For the local service the target is the source too: without the VIP on lo the probe would otherwise leave for another
server, and that server's answer would count for this one.

These are bare sockets rather than asyncio's streams: a stream reads on by itself, so a service that sends single bytes
without end would cost as much CPU as it likes.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    nullcontext,
)
from typing import Protocol

from agent.address import Address
from agent.health.failure import ProbeFailed, SocketElsewhere
from agent.health.local_socket import remote_end

READ_SIZE = 4096
RECEIVE_LIMIT = 64 * 1024
"""The most bytes that one probe reads, TLS included."""
PACE_S = 0.001
"""The least time between two reads: bytes that arrive meanwhile cost one."""


Reach = Callable[[int], AbstractContextManager[object]]
"""Has a connection from that source port reach one of several servers of a port, for as long as the context lasts."""


def any_server(_: int) -> AbstractContextManager[object]:
    """Have a connection reach whichever server is chosen."""
    return nullcontext()


Connect = Callable[[], AbstractAsyncContextManager["Connection"]]
"""Opens the connection of one probe."""


class Channel(Protocol):
    """A connection, with or without TLS."""

    async def send(self, data: bytes) -> None:
        """Send all of it. Raises OSError."""

    async def receive(self) -> bytes:
        """Return the next bytes, none at the end. Raises OSError, ProbeFailed."""


class Connection:
    """A connected socket, of TCP or UDP."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._received = 0

    async def send(self, data: bytes) -> None:
        """Send all of it. Raises OSError."""
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def receive(self) -> bytes:
        """Return the next bytes, none at the end. Raises OSError, and ProbeFailed beyond RECEIVE_LIMIT."""
        if self._received >= RECEIVE_LIMIT:
            raise ProbeFailed(f"sent {RECEIVE_LIMIT // 1024} KiB without what is expected")
        if self._received:
            await asyncio.sleep(PACE_S)
        data = await asyncio.get_running_loop().sock_recv(self._socket, READ_SIZE)
        self._received += len(data)
        return data


@asynccontextmanager
async def connect(
    address: Address,
    port: int,
    kind: socket.SocketKind = socket.SOCK_STREAM,
    *,
    local: bool = False,
    reach: Reach = any_server,
    source: Address | None = None,
) -> AsyncIterator[Connection]:
    """Connect, and close when left. Raises OSError.

    `source`: from where; None: the target is this node's own address, and the source too. `local`: the other end must
    be in this network namespace; raises SocketElsewhere. `reach`: which server it asks.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, kind | socket.SOCK_NONBLOCK) as one:
        one.bind((str(source or address), 0))
        with ExitStack() as reaching:
            reaching.enter_context(reach(one.getsockname()[1]))
            await asyncio.get_running_loop().sock_connect(one, (str(address), port))
            if kind is socket.SOCK_STREAM:
                reaching.close()  # of UDP each datagram looks for its server
            if one.getsockname() == one.getpeername():
                # Nothing listens, and the kernel chose the same port for this end: the socket is connected to itself.
                raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            if local and (why := remote_end(one)):
                raise SocketElsewhere(why)
            yield Connection(one)
