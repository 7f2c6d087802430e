# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end of a Unix socket. Standard library only: the relay carries this file (helper_archive.py)."""

from __future__ import annotations

import socket
import struct

_UCRED = struct.Struct("3i")


def peer_uid(connection: socket.socket) -> int:
    """Return the user of the peer process: SO_PEERCRED (unix(7)), taken when it connected, or began to listen."""
    _pid, uid, _gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)
