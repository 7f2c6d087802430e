# SPDX-License-Identifier: Apache-2.0
"""One neighbor of the BFD process: its session, the socket that it sends with, and which packets are its own.

process.py owns all neighbors and the sockets that receive. Standard library only: the BFD archive carries this file.
"""

from __future__ import annotations

import random
import socket

from bgp.bfd import udp
from bgp.bfd.config import BfdPeer
from bgp.bfd.packet import Diagnostic, Packet, SessionState
from bgp.bfd.session import BfdSession, SessionTimers
from bgp.bfd.status import BfdStatus

DIAGNOSTICS = {
    Diagnostic.NONE: "",
    Diagnostic.TIME_EXPIRED: "the neighbor was silent for too long",
    Diagnostic.NEIGHBOR_DOWN: "the neighbor signaled session down",
    Diagnostic.ADMIN_DOWN: "taken down here",
}


class BfdNeighbor:
    """One neighbor: its session, and the socket that it sends with."""

    def __init__(self, peer: BfdPeer, discriminator: int, now: float) -> None:
        self.peer = peer
        self.session = BfdSession(discriminator, session_timers(peer), now, random.random)
        self.since = now
        self.error: str | None = None
        self.ttl = 0
        """The TTL of its last packet with our discriminator."""
        self.key: tuple[bytes, int] | None = None
        """The source of its packets: address and, if link-local, interface index. None while no socket is open."""
        self._destination: udp.Endpoint = ()
        self._socket: socket.socket | None = None

    @property
    def min_ttl(self) -> int:
        """The TTL below which a packet is not its own.

        Behind routers nothing is known before the session is up, nor of a neighbor that does not send with 255.
        """
        least = udp.TTL - self.peer.multihop
        near = not self.peer.multihop or (self.session.state is SessionState.UP and self.ttl >= least)
        return least if near else 0

    def receive(self, packet: Packet, ttl: int, now: float) -> None:
        """Process a packet from its source address."""
        if ttl >= self.min_ttl:
            if packet.your_discriminator == self.session.discriminator:
                self.ttl = ttl
            self.session.receive(packet, now)

    def open(self) -> str | None:
        """Open the sending socket; return why that failed, or None."""
        port = udp.MULTIHOP_PORT if self.peer.multihop else udp.SINGLE_HOP_PORT
        try:
            _, destination = udp.endpoint(self.peer.address, port)
            if self._socket is not None and destination == self._destination:
                return None
            self.close()
            self._destination = destination
            self._socket = udp.open_sender(self.peer.local_address)
            self.key = source_key(destination)
        except OSError as problem:
            return f"{self.peer.local_address}: {problem.strerror or problem}"
        return None

    def close(self) -> None:
        """Close the sending socket."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self.key = None

    def send(self) -> None:
        """Send the session's packets. A packet that cannot be sent is lost, and the neighbor detects the loss."""
        for packet in self.session.outgoing():
            if self._socket is not None:
                try:
                    self._socket.sendto(packet.encode(), self._destination)
                except OSError:
                    # A socket that was bound before a route existed may send from any address, so open another one. A
                    # session that is Up is left to its detection time.
                    if self.session.state is not SessionState.UP:
                        self.close()

    def status(self) -> BfdStatus:
        """Return its entry of the status file."""
        session = self.session
        diagnostic = DIAGNOSTICS[session.diagnostic]
        times = session.transmit_us / 1000, session.detection_us / 1000
        return BfdStatus(str(session.state), self.since, diagnostic, *times, error=self.error)


def session_timers(peer: BfdPeer) -> SessionTimers:
    """Return the timers that are configured for a neighbor."""
    return SessionTimers(peer.interval_ms * 1000, peer.multiplier)


def source_key(endpoint: udp.Endpoint) -> tuple[bytes, int]:
    """Return the key of a neighbor: its address, and the interface index of a link-local one."""
    host = str(endpoint[0])
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.inet_pton(family, host), int(endpoint[3]) if len(endpoint) > 3 else 0
