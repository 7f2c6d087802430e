# SPDX-License-Identifier: Apache-2.0
"""The process at the other end of a Unix socket, and its user. Standard library only: the helper archives carry this
file."""

from __future__ import annotations

import socket
import struct

_UCRED = struct.Struct("3i")


def peer_uid(connection: socket.socket) -> int:
    """Return the peer's user id: SO_PEERCRED (unix(7)), as it was when the peer connected or began to listen."""
    _pid, uid, _gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)


def peer_pid(connection: socket.socket) -> int:
    """Return the peer's process id, as `peer_uid` does; 0 if it is of another PID namespace."""
    pid, _uid, _gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(pid)
