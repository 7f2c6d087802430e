# SPDX-License-Identifier: Apache-2.0
"""A BFD process without ExaBGP, in a network namespace of its own, and neighbors whose packets the test sends."""

from __future__ import annotations

import selectors
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from bgp.bfd.config import BfdPeer, encode_peers
from bgp.bfd.packet import Packet, SessionState, decode
from bgp.bfd.status import BfdStatus, decode_statuses
from bgp.exabgp.helper_archive import bfd_archive
from topology.lab.netns import inside_net

ADDRESSES = "ip link set lo up && for a in 2001:db8::1 2001:db8::2 fe80::1 fe80::2; do ip addr add $a/128 dev lo; done"
OURS = 99
PATIENT = 100
"""A neighbor's multiplier with which it may be silent for half a minute, as a test on a busy machine is."""
IP_RECVTTL = 12  # linux/in.h


class BfdHelper:
    """A BFD process, and ExaBGP's end of its pipes."""

    def __init__(self, directory: Path, *peers: BfdPeer, before: str = ADDRESSES) -> None:
        self.directory = directory
        (directory / "bfd.pyz").write_bytes(bfd_archive())
        self.configure(*peers)
        run = f"{before} && exec /usr/bin/python3 -I -S {directory}/bfd.pyz --run-dir {directory}"
        argv = ["unshare", "--net", "sh", "-c", run]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def configure(self, *peers: BfdPeer) -> None:
        aside = self.directory / "aside"
        aside.write_bytes(encode_peers(peers))
        aside.rename(self.directory / "bfd.json")

    def status(self, peer: BfdPeer) -> BfdStatus | None:
        path = self.directory / "bfd.status.json"
        return decode_statuses(path.read_bytes() if path.exists() else b"").get(peer.name)

    def wait_for(self, peer: BfdPeer, condition: Callable[[BfdStatus], object]) -> BfdStatus:
        deadline = time.monotonic() + 60
        while not (status := self.status(peer)) or not condition(status):
            assert time.monotonic() < deadline, status
            time.sleep(0.01)
        return status

    def run(self, command: str) -> None:
        """Run a shell command in its namespace."""
        subprocess.run(["nsenter", "-t", str(self.process.pid), "-n", "sh", "-c", command], check=True)

    def command(self, timeout_s: float = 60) -> str:
        """Return the next command to ExaBGP, "" if none comes in time."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            return self.process.stdout.readline().decode().strip() if selector.select(timeout_s) else ""

    def __enter__(self) -> BfdHelper:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


class BfdNeighborModel:
    """One neighbor of the process, whose packets the test sends."""

    def __init__(self, process: BfdHelper, peer: BfdPeer, on: str = "lo") -> None:
        self.process, self.peer = process, peer
        self.port = 4784 if peer.multihop else 3784
        process.wait_for(peer, lambda status: status.error is None)  # it runs in its namespace, with open sockets
        with inside_net(process.process.pid):
            self.scope = socket.if_nametoindex(on)
            self.socket = socket.socket(socket.AF_INET6 if ":" in peer.address else socket.AF_INET, socket.SOCK_DGRAM)
            self.socket.bind(self._at(peer.address))
        self.socket.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        if ":" in peer.address:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        self.socket.settimeout(60)
        self.ttl = 255
        self.received: list[Packet] = []
        self.source = self.hops = 0

    def _at(self, address: str) -> tuple[str, int] | tuple[str, int, int, int]:
        host, _, interface = address.partition("%")
        return (host, self.port, 0, self.scope if interface else 0) if ":" in host else (host, self.port)

    def send(self, packet: Packet) -> None:
        if self.socket.family == socket.AF_INET:
            self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, self.ttl)
        else:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, self.ttl)
        self.socket.sendto(packet.encode(), self._at(self.peer.local_address))

    def receive(self) -> Packet:
        data, extra, _flags, address = self.socket.recvmsg(100, 100)
        packet = decode(data)
        assert packet is not None
        self.source, self.hops = address[1], int.from_bytes(extra[0][2], "little")
        self.received.append(packet)
        return packet

    def bring_up(self, multiplier: int = PATIENT) -> None:
        while (packet := self.receive()).state is not SessionState.UP:
            state = SessionState.INIT if packet.state is SessionState.DOWN else SessionState.UP
            self.send(Packet(state, PATIENT, OURS, packet.my_discriminator, 1_000_000, 300_000))
        self.send(Packet(SessionState.UP, multiplier, OURS, packet.my_discriminator, 300_000, 300_000, final=True))

    def close(self) -> None:
        self.socket.close()
