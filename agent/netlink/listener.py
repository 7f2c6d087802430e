# SPDX-License-Identifier: Apache-2.0
"""The listeners of a port, by sock_diag (linux/inet_diag.h). I/O only.

A dump with a source port and one state is filtered by the kernel, which walks its listeners only: 50 us for a few.

    inet_diag_msg      family: 1 | state: 1 | timer: 1 | retransmissions: 1 | sockid: 48 |
                       expires: 4 | rqueue: 4 | wqueue: 4 | uid: 4 | inode: 4 | attributes
    sockid             port: 2 | port: 2 | address: 16 | address: 16 | interface: 4 | cookie: 8
"""

from __future__ import annotations

import os
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from agent.model import Listener, Port
from agent.netlink.message import (
    FAMILY,
    NLM_F_DUMP,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOCK_DIAG_BY_FAMILY,
    Request,
    attributes,
    error_code,
    messages,
    pack,
)

_NETLINK_SOCK_DIAG: Final = 4
_PROTOCOLS: Final = {"tcp": (socket.IPPROTO_TCP, 1 << 10), "udp": (socket.IPPROTO_UDP, 1 << 7)}
"""With the state of their listeners, as a mask: LISTEN; an unconnected UDP socket is in CLOSE."""
_REQUEST: Final = struct.Struct("=BBxxI")
_PORTS: Final = struct.Struct("!HH")
_SOCKET_ID_SIZE: Final = 48
_MESSAGE: Final = struct.Struct("=BBBBHH16s16sIQIIIII")
_SKV6ONLY: Final = 11
"""INET_DIAG_SKV6ONLY, of IPv6 sockets: 1 if it takes no IPv4."""
_BYTES: Final = 1 << 16


def listeners(port: Port) -> frozenset[Listener]:
    """Return the listeners of a port, or with number 0 of all, in this network namespace, IPv4 and IPv6.

    Raises OSError.
    """
    found: set[Listener] = set()
    protocol, states = _PROTOCOLS[port.protocol]
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG) as kernel:
        for family in FAMILY.values():
            head = _REQUEST.pack(family, protocol, states)
            ends = _PORTS.pack(port.number, 0).ljust(_SOCKET_ID_SIZE, b"\0")
            kernel.send(pack(Request(SOCK_DIAG_BY_FAMILY, head + ends, NLM_F_DUMP), 1))
            found |= _read_dump(kernel, port.protocol)
    return frozenset(found)


def _read_dump(kernel: socket.socket, protocol: str) -> set[Listener]:
    """Return what a dump has; its datagrams are made as they are read, so none has to be waited for."""
    found: set[Listener] = set()
    while True:
        for message in messages(kernel.recv(_BYTES)):
            if message.kind == NLMSG_DONE:
                return found
            if message.kind == NLMSG_ERROR:
                code = error_code(message.body)
                raise OSError(code, f"sock_diag: {os.strerror(code)}")
            found.add(_listener(message.body, protocol))


def _listener(body: bytes, protocol: str) -> Listener:
    family, _, _, _, number, _, address, _, ifindex, cookie, *_, inode = _MESSAGE.unpack_from(body)
    only6 = attributes(body, _MESSAGE.size).get(_SKV6ONLY, b"\0") != b"\0"
    bound = IPv4Address(address[:4]) if family == FAMILY[4] else IPv6Address(address)
    return Listener(bound, Port(protocol, socket.ntohs(number)), ifindex, cookie, inode, only6)
