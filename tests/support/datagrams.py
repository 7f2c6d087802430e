# SPDX-License-Identifier: Apache-2.0
"""Datagrams of any size to servers that answer each with the server's name and the size that arrived.

The servers are threads of the test, with a socket for each VIP in the nodes' network namespaces: an answer's source is
the VIP.
"""

import contextlib
import select
import socket
import threading
from collections.abc import Iterable, Mapping
from typing import Self

from topology.lab.netns import inside_net

PORT = 7001
SIZE_MAX = 65_535


class DatagramServers:
    """Servers for these VIPs in the network namespaces of some processes, by the name that they answer with."""

    def __init__(self, pids: Mapping[str, int], vips: Iterable[str]) -> None:
        self._stack = contextlib.ExitStack()
        for name, pid in pids.items():
            with inside_net(pid):
                sockets = [self._stack.enter_context(bound_socket(vip, PORT)) for vip in vips]
            ending, end = socket.socketpair()
            thread = threading.Thread(target=_serve, args=(name, sockets, ending))
            thread.start()
            self._stack.callback(ending.close)
            self._stack.callback(thread.join)
            self._stack.callback(end.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _serve(name: str, sockets: list[socket.socket], ending: socket.socket) -> None:
    while True:
        readable, _, _ = select.select([*sockets, ending], [], [])
        if ending in readable:
            return
        for one in readable:
            data, client = one.recvfrom(SIZE_MAX)
            one.sendto(f"{name} {len(data)}".encode(), client)


def bound_socket(address: str, port: int = 0) -> socket.socket:
    """Open a UDP socket with that source, in this thread's network namespace."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    one = socket.socket(family, socket.SOCK_DGRAM)
    one.bind((address, port))
    return one


def answer_to(pid: int, source: str, vip: str, size: int, timeout_s: float, port: int = 0) -> str | None:
    """Send a datagram from a process's network namespace; return the server that got it whole, None without answer."""
    with inside_net(pid):
        one = bound_socket(source, port)
    with one:
        one.settimeout(timeout_s)
        one.sendto(bytes(size), (vip, PORT))
        try:
            name, got = one.recv(100).decode().split()
        except TimeoutError:
            return None
    assert int(got) == size
    return name
