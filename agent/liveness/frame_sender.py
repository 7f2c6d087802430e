# SPDX-License-Identifier: Apache-2.0
"""Sends Ethernet frames by interface index: one packet socket for each, opened when needed. I/O only."""

from __future__ import annotations

import contextlib
import socket

_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20  # linux/socket.h, linux/if_packet.h


class FrameSender:
    """Packet sockets that send and never receive."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}

    def send(self, ifindex: int, frame: bytes) -> None:
        """Send a frame; OSError if it could not be: there is no such interface, it is down, its queue is full."""
        opened = self._sockets.get(ifindex) or self._open(ifindex)
        try:
            opened.send(frame)
        except BlockingIOError:
            raise
        except OSError:
            # A deleted interface's socket stays unusable, also if another one gets the same index.
            self._sockets.pop(ifindex).close()
            raise

    def close(self) -> None:
        """Close all sockets."""
        while self._sockets:
            self._sockets.popitem()[1].close()

    def _open(self, ifindex: int) -> socket.socket:
        name = socket.if_indextoname(ifindex)
        with contextlib.ExitStack() as on_error:
            # Protocol 0: it receives nothing.
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
            on_error.callback(opened.close)
            # Past tc: the egress program drops tunnels and markers that do not come from XDP (bpf/src/egress.c).
            opened.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
            opened.bind((name, 0))
            on_error.pop_all()
        self._sockets[ifindex] = opened
        return opened
