# SPDX-License-Identifier: Apache-2.0
"""The user of the process at the other end of a Unix socket. Standard library only: the helper archives carry this
file."""

from __future__ import annotations

import socket
import struct

_UCRED = struct.Struct("3i")


def peer_uid(connection: socket.socket) -> int:
    """Return the peer's user id: SO_PEERCRED (unix(7)), as it was when the peer connected or began to listen."""
    _pid, uid, _gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)
