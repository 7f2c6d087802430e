# SPDX-License-Identifier: Apache-2.0
"""A free TCP port."""

import random
import socket

PORTS = range(10_000, 30_000)
"""Below those that Linux gives to connections: another test's connection could get one before it is used."""


def free_port() -> int:
    """Return the number of a TCP port that none uses."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as sock:
            try:
                sock.bind(("", port))
            except OSError:
                continue
            return port
