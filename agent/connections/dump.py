# SPDX-License-Identifier: Apache-2.0
"""The sockets of this network namespace, asked of the kernel in one dump for each family. I/O only.

An IPv4 connection of a server that listens on `::` is in the dump of IPv6. A socket that opens or closes meanwhile may
be missing, or be there twice. While the kernel writes, and while numpy reads, other threads run.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterator
from typing import Final

from agent.address import Address
from agent.connections.diag_message import ALL_STATES, CLOSE, LISTEN, TIME_WAIT, Sockets, dump_request, read_sockets

_NETLINK_SOCK_DIAG: Final = 4
_DATAGRAM: Final = 1 << 16
"""The kernel sends 32 KB at most at once."""
_CHUNK: Final = 1 << 20
"""Bytes that are read together: some 9,000 sockets, for which numpy takes a millisecond."""


def dump(protocol: str, local: Collection[Address], time_wait: bool = False) -> Iterator[Sockets]:
    """Yield the connected sockets of a protocol (tcp, udp) with one of these local addresses, in chunks.

    Without listeners and unconnected sockets, and without TIME-WAIT unless it is asked for. The thread that calls it
    waits for the kernel, 1.3 us for each socket. Raises OSError if the kernel cannot be asked: it has no inet_diag for
    the protocol.
    """
    states = ALL_STATES & ~(1 << LISTEN | 1 << CLOSE)
    if not time_wait:
        states &= ~(1 << TIME_WAIT)
    # An IPv6 address is never in a socket of IPv4; an IPv4 one may be in a socket of IPv6.
    for version in sorted({6, *(one.version for one in local)}):
        for sockets in _replies(dump_request(protocol, version, states, local)):
            yield sockets if time_wait else sockets[sockets["state"] != TIME_WAIT]


def _replies(request: bytes) -> Iterator[Sockets]:
    buffer, filled = memoryview(bytearray(_CHUNK)), 0
    code: int | None = None
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG) as kernel:
        kernel.send(request)
        while code is None:
            while filled <= _CHUNK - _DATAGRAM:
                try:  # Each call has the kernel write the next datagram: there is nothing to wait for.
                    filled += kernel.recv_into(buffer[filled:])
                except BlockingIOError:
                    break
            if not filled:
                raise OSError(errno.EBADMSG, "sock_diag: the dump ended early")
            sockets, code = read_sockets(buffer[:filled])
            if code:
                raise OSError(code, f"sock_diag: {os.strerror(code)}")
            yield sockets
            filled = 0
