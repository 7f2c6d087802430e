# SPDX-License-Identifier: Apache-2.0
"""Many bytes over one connection, up or down, and the longest stall: for tests of path MTU.

The servers are threads of the test whose sockets are in the nodes' network namespaces.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterable

from topology.lab.netns import inside_net

SIZE = 1_000_000
PORT = 7100
TIMEOUT_S = 60.0
STALL_S = 5.0
"""A shorter stall may be a busy machine's; what is too large for the path never arrives."""


class BulkServers:
    """Servers in the network namespaces of some processes; entering returns their port."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = tuple(pids)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> int:
        for pid in self._pids:
            with inside_net(pid):
                listener = self._stack.enter_context(
                    socket.create_server(("", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
                )
            thread = threading.Thread(target=_serve, args=(listener,))
            thread.start()
            self._stack.callback(thread.join)
            self._stack.callback(listener.shutdown, socket.SHUT_RDWR)
        return PORT

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _serve(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):  # shut down: the end
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    connection.settimeout(TIMEOUT_S)
    with connection, contextlib.suppress(OSError):
        command = connection.recv(16).split()
        if len(command) < 2:  # no request
            return
        connection.sendall(b"go\n")
        if command[0] == b"up":
            connection.sendall(b"%f\n" % _receive(connection, int(command[1])))
        else:
            connection.sendall(bytes(int(command[1])))


def upload(connection: socket.socket, size: int, timeout_s: float = TIMEOUT_S) -> float:
    """Send so many bytes; return the longest time in seconds in which the server received none."""
    connection.settimeout(timeout_s)
    connection.sendall(b"up %d\n" % size)
    assert connection.recv(16) == b"go\n"
    connection.sendall(bytes(size))
    return float(connection.recv(100))


def download(connection: socket.socket, size: int) -> float:
    """Receive so many bytes; return the longest time in seconds in which none arrived."""
    connection.settimeout(TIMEOUT_S)
    connection.sendall(b"down %d\n" % size)
    return _receive(connection, size + len(b"go\n"))


def _receive(connection: socket.socket, size: int) -> float:
    longest_s, last = 0.0, time.monotonic()
    while size > 0:
        data = connection.recv(1 << 16)
        if not data:
            raise ConnectionError("closed early")
        size -= len(data)
        now = time.monotonic()
        longest_s, last = max(longest_s, now - last), now
    return longest_s
