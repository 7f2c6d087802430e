# SPDX-License-Identifier: Apache-2.0
"""The messages of a dump of sockets (sock_diag, linux/inet_diag.h): the request with its filter, and the reply. Pure.

The kernel filters by state and by local address (a bytecode, which `ss` uses too), so a server's own connections, to
a database for example, are not even copied. It writes each socket into a message of its own. Numpy reads a whole
buffer of them: most have one size, so their places are known; where sizes differ (a handshake has fewer attributes) a
loop over the lengths finds the places.

    request    nlmsghdr: 16 | inet_diag_req_v2: 56 | attribute: the bytecode
    message    nlmsghdr: 16 | inet_diag_msg: 72 | attributes, which are not read
    nlmsghdr   length: 4 | kind: 2 | flags: 2 | sequence: 4 | port: 4
    inet_diag_msg   family: 1 | state: 1 | timer: 1 | retransmissions: 1 | sockid: 48 | 20
    sockid     local port: 2 | remote port: 2 | local address: 16 | remote address: 16 | interface: 4 | cookie: 8
    bytecode   condition | jump to the end | condition | jump to the end | ... | condition
    condition  code: 1 | go on by, if it holds: 1 | else: 2 | family: 1 | prefix length: 1 | 0: 2 | port: 4 | address
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Collection
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.address import Address
from agent.netlink.message import (
    FAMILY,
    NLM_F_DUMP,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOCK_DIAG_BY_FAMILY,
    Request,
    error_code,
    pack,
    pack_attribute,
)

SOCKET: Final = np.dtype(
    [
        ("local", "<u4", 4),
        ("remote", "<u4", 4),
        ("cookie", "<u8"),
        ("local_port", "<u2"),
        ("remote_port", "<u2"),
        ("state", "u1"),
    ],
    align=True,
)
"""One socket. Addresses and ports are words as the little-endian program loads them from a packet. An IPv4 address is
`::ffff:a.b.c.d`, whatever the family of its socket. The cookie is the kernel's number of the socket, which no other
ever gets; the state is one of linux/tcp_states.h."""
Sockets = NDArray[np.void]
"""Of the dtype SOCKET, shape (sockets,)."""

SYN_SENT, TIME_WAIT, CLOSE, LISTEN = 2, 6, 7, 10
MAPPED_WORD: Final = 0xFFFF_0000
"""The third word of an IPv4 address."""
ALL_STATES: Final = 0xFFF

_REQUEST: Final = struct.Struct("=BBxxI48x")
"""The rest is 0: any ports and addresses, no attribute that costs something."""
_PROTOCOLS: Final = {"tcp": 6, "udp": 17}
_BYTECODE, _JUMP, _LOCAL = 1, 1, 7
"""INET_DIAG_REQ_BYTECODE, INET_DIAG_BC_JMP, INET_DIAG_BC_S_COND."""
_CODE: Final = struct.Struct("=BBH")
_CONDITION: Final = struct.Struct("=BBxxi")
_ANY_PORT: Final = -1
_MAX_CONDITIONS: Final = 64
"""The kernel compares each socket with one after the other. Beyond, it sends all sockets."""
_HEADER: Final = struct.Struct("=IH")
_HEADER_SIZE, _SOCKET_SIZE = 16, 88
_TIMER_OF_TIME_WAIT: Final = 3
"""A TIME-WAIT socket reports the state in which it began, so FIN-WAIT-2 may be either; its timer shows which."""


def dump_request(protocol: str, version: int, states: int, local: Collection[Address]) -> bytes:
    """Return the request for all sockets of a protocol (tcp, udp) and an IP version with one of these addresses.

    `states` has a bit for each state. IPv4 addresses also match the IPv4 connections of IPv6 sockets. The reply may
    have sockets with other addresses too, if these are many.
    """
    body = _REQUEST.pack(FAMILY[version], _PROTOCOLS[protocol], states)
    if local and len(local) <= _MAX_CONDITIONS:
        body += pack_attribute(_BYTECODE, _any_of(local))
    return pack(Request(SOCK_DIAG_BY_FAMILY, body, NLM_F_DUMP), 1)


def _any_of(local: Collection[Address]) -> bytes:
    """Return the program that accepts a socket with one of these local addresses: it does so by ending exactly."""
    conditions = [_CONDITION.pack(FAMILY[one.version], one.max_prefixlen, _ANY_PORT) + one.packed for one in local]
    program = b""
    for condition in reversed(conditions):
        size = _CODE.size + len(condition)
        jump = _CODE.pack(_JUMP, _CODE.size, _CODE.size + len(program)) if program else b""
        # Without a next condition, 4 bytes past the end: rejected.
        code = _CODE.pack(_LOCAL, size, size + _CODE.size)
        program = code + condition + jump + program
    return program


def read_sockets(data: memoryview) -> tuple[Sockets, int | None]:
    """Return the sockets of a buffer of whole messages; if the dump ends with it, also an errno, 0 for success.

    Raises OSError if a message is truncated.
    """
    places, code = _places(data)
    words = _words(data)
    at = places // 4
    found = np.empty(len(places), SOCKET)
    for name, first in (("local", 6), ("remote", 10)):
        for word in range(4):
            found[name][:, word] = words[at + (first + word)]
    kind, ports = words[at + 4], words[at + 5]
    found["local_port"], found["remote_port"] = ports & 0xFFFF, ports >> 16
    found["cookie"] = words[at + 15] | words[at + 16].astype(np.uint64) << np.uint64(32)
    in_time_wait = (kind >> 16 & 0xFF) == _TIMER_OF_TIME_WAIT
    found["state"] = np.where(in_time_wait, TIME_WAIT, kind >> 8 & 0xFF)
    _map_addresses(found, (kind & 0xFF) == FAMILY[4])
    return found, code


def _words(data: memoryview) -> NDArray[np.uint32]:
    return np.frombuffer(data[: len(data) // 4 * 4], np.uint32)


def _map_addresses(sockets: Sockets, ipv4: NDArray[np.bool_]) -> None:
    for name in ("local", "remote"):
        words = sockets[name]
        words[:, 3] = np.where(ipv4, words[:, 0], words[:, 3])
        words[:, 2] = np.where(ipv4, MAPPED_WORD, words[:, 2])
        words[:, 0] = np.where(ipv4, 0, words[:, 0])


def _places(data: memoryview) -> tuple[NDArray[np.int64], int | None]:
    """Return the offset of each socket's message, and the errno of the dump's last message if that is there."""
    length, kind = _HEADER.unpack_from(data) if len(data) >= _HEADER_SIZE else (0, 0)
    count = len(data) // length if length >= _SOCKET_SIZE and length % 4 == 0 else 0
    if kind == SOCK_DIAG_BY_FAMILY and count * length == len(data):
        headers = _words(data).reshape(count, length // 4)[:, :2]
        if (headers[:, 0] == length).all() and (headers[:, 1] & 0xFFFF == kind).all():
            return np.arange(0, len(data), length), None
    return _walk(data)


def _walk(data: memoryview) -> tuple[NDArray[np.int64], int | None]:
    found: list[int] = []
    code: int | None = None
    offset, end = 0, len(data)
    unpack = _HEADER.unpack_from
    while offset < end:
        length, kind = unpack(data, offset) if offset + _HEADER_SIZE <= end else (0, 0)
        least = _SOCKET_SIZE if kind == SOCK_DIAG_BY_FAMILY else _HEADER_SIZE + 4
        if not least <= length <= end - offset:
            raise OSError(errno.EBADMSG, "sock_diag: a message of the dump is truncated")
        if kind == SOCK_DIAG_BY_FAMILY:
            found.append(offset)
        elif kind in (NLMSG_DONE, NLMSG_ERROR):
            code = error_code(bytes(data[offset + _HEADER_SIZE :][:4]))
        offset += length + -length % 4
    return np.array(found, np.int64), code
