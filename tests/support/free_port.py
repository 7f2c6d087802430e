# SPDX-License-Identifier: Apache-2.0
"""A port of loopback that is free right now."""

import socket


def free_port() -> int:
    """Return the number of a TCP port that none listens at."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
