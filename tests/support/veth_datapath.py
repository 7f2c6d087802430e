# SPDX-License-Identifier: Apache-2.0
"""The data path of `node` (bpf/attach/conftest.py), whose packets all belong to another node, and packets for it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from ipaddress import IPv4Address
from pathlib import Path

import numpy as np
from support import packets
from support.programs import PROGRAMS

from bpf.attach.datapath import DataPath
from bpf.kernel.pin import open_pin, pin_object
from bpf.layout.conf import NodeConf
from bpf.layout.limits import CHAIN
from bpf.layout.node import NodeEntry
from bpf.layout.service import Protocol, ServiceEntry, ServiceKey

ROWS = 4096
VIP = "10.99.0.1"
NODE_MAC = packets.mac("02:00:00:00:00:01")


def fill(path: DataPath) -> None:
    """One service whose rows all belong to another node, so that every packet is forwarded."""
    maps = path.maps
    rows = np.zeros((maps.row_count, CHAIN), np.uint16)
    rows[:, 0] = 2
    maps.conf.write(NodeConf(1, 11, bytes(16)))
    for index in (1, 2):
        maps.nodes.write(index, NodeEntry(IPv4Address(f"10.0.0.1{index}"), 10 + index, bytes([2, 0, 0, 0, 0, index])))
    maps.tables.swap(1, rows, np.zeros(maps.row_count, np.uint64))
    maps.services.write(ServiceKey(IPv4Address(VIP), Protocol.TCP, 7000), ServiceEntry(1, up=True))


def opened(pins: Path, interfaces: str | list[str] = "node", **options: object) -> DataPath:
    path = DataPath.open(pins, interfaces, rows=ROWS, cache_dir=PROGRAMS, **options)  # type: ignore[arg-type]
    fill(path)
    return path


def packet(options: bytes = b"") -> bytes:
    ends = {"src": "10.1.0.2", "dst": VIP}
    segment = packets.tcp(sport=40000, dport=7000, **ends)
    whole = packets.ipv4(segment, protocol=packets.TCP, options=options, **ends)
    return packets.ethernet(whole, dst=NODE_MAC, src=packets.ROUTER)


PACKETS = {"plain": packet(), "general": packet(options=b"\1\1\1\1")}
"""By the program that handles it: the first, or the one that its tail call leads to."""


class Sender:
    """A thread that sends a packet into the wire until `stop`, and counts."""

    def __init__(self, kind: str = "plain") -> None:
        self._frame = PACKETS[kind]
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.bind(("wire", 0))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = 0

    def _run(self) -> None:
        while not self._stop.wait(0.0002):
            with contextlib.suppress(BlockingIOError):
                for _ in range(10):
                    self._send()

    def _send(self) -> None:
        """Send a packet. Raises BlockingIOError where the receiving end has no room, as on a busy machine."""
        try:
            self._socket.send(self._frame)
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                raise BlockingIOError from None
            raise
        self.sent += 1

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._socket.close()


def seen(path: DataPath) -> int:
    return path.maps.counters.read()[1]["rx"]


class Repinned:
    """The pinned program of one build and its tail calls, to pin again when they were replaced.

    The verifier takes a second for each program that is loaded.
    """

    def __init__(self, pins: Path) -> None:
        found = (*pins.glob("program0_*"), *pins.glob("programs_*"))
        self._fds = {path: fd for path in found if (fd := open_pin(path)) is not None}

    def pin(self) -> None:
        """Pin both where they were."""
        for path, fd in self._fds.items():
            path.unlink(missing_ok=True)
            pin_object(fd, path)

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
