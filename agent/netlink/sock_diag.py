# SPDX-License-Identifier: Apache-2.0
"""Which socket the kernel has for a flow's packets, by sock_diag (linux/inet_diag.h). I/O only.

A request without NLM_F_DUMP names one flow, and the kernel looks it up as it would for a packet: connections first,
TIME-WAIT and half-open ones included, then listeners. That is the lookup of the BPF program too (bpf/src/socket.h). It
is made in this process's network namespace, and finds IPv4 connections of a server that listens on `::`.

    inet_diag_req_v2   family: 1 | protocol: 1 | extensions: 1 | 0: 1 | states: 4 | sockid
    inet_diag_sockid   port: 2 | port: 2 | address: 16 | address: 16 | interface: 4 | cookie: 8
    inet_diag_msg      family: 1 | state: 1 | timer: 1 | retransmissions: 1 | sockid | ...
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Final

from agent.model import Flow, LocalSocket
from agent.netlink.message import (
    FAMILY,
    NLM_F_DUMP,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOCK_DIAG_BY_FAMILY,
    Message,
    Request,
    error_code,
    messages,
    number,
    pack,
)

_NETLINK_SOCK_DIAG: Final = 4
_REQUEST: Final = struct.Struct("=BBxxI")
_SOCKET_ID: Final = struct.Struct("!HH16s16s")
_ANY_COOKIE: Final = b"\xff" * 8
_REPLY: Final = struct.Struct("=BBBB")
_PROTOCOLS: Final = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
_ESTABLISHED, _CLOSE, _LISTEN = 1, 7, 10
_TIMER_OF_TIME_WAIT: Final = 3
"""A TIME-WAIT socket reports the state in which it began, so FIN-WAIT-2 may be either; its timer shows which."""
_BYTES: Final = 1 << 13


def find_socket(flow: Flow, ifindex: int = 0) -> LocalSocket:
    """Return what the kernel has for packets of a flow that arrive on an interface (its index; 0: any).

    Raises OSError if the kernel cannot be asked: it has no inet_diag for the protocol.
    """
    head = _REQUEST.pack(FAMILY[flow.vip.version], _PROTOCOLS[flow.protocol], 0)
    here, there = (flow.vip_port, flow.vip.packed), (flow.client_port, flow.client.packed)
    # The kernel takes the ends of a UDP flow in the other order ("for historical reasons", net/ipv4/udp_diag.c).
    source, destination = (here, there) if flow.protocol == "tcp" else (there, here)
    ends = _SOCKET_ID.pack(source[0], destination[0], source[1], destination[1])
    request = Request(SOCK_DIAG_BY_FAMILY, head + ends + struct.pack("=I", ifindex) + _ANY_COOKIE)
    reply = _ask(request)
    if reply.kind == SOCK_DIAG_BY_FAMILY:
        return _kind_of(reply.body)
    if (code := error_code(reply.body)) != errno.ENOENT:
        raise OSError(code, f"sock_diag: {os.strerror(code)}")
    # No such socket, or no such protocol: a dump of sockets in no state is empty, and shows which.
    end = _ask(Request(SOCK_DIAG_BY_FAMILY, head.ljust(len(request.body), b"\0"), NLM_F_DUMP))
    if end.kind != NLMSG_DONE or number(end.body[:4]) < 0:
        raise OSError(errno.EPROTONOSUPPORT, f"sock_diag: the kernel has no {flow.protocol}_diag")
    return LocalSocket.NONE


def _ask(request: Request) -> Message:
    """Return the kernel's first message in answer; it is there when send() returns."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG) as kernel:
        kernel.send(pack(request, 1))
        return next(messages(kernel.recv(_BYTES)), Message(NLMSG_ERROR, 1, struct.pack("=i", -errno.EIO)))


def _kind_of(body: bytes) -> LocalSocket:
    _, state, timer, _ = _REPLY.unpack_from(body)
    if timer == _TIMER_OF_TIME_WAIT:
        return LocalSocket.TIME_WAIT
    # An unconnected UDP socket is in the state CLOSE.
    return LocalSocket.LISTENER if state in (_LISTEN, _CLOSE) else LocalSocket.CONNECTION
