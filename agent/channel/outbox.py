# SPDX-License-Identifier: Apache-2.0
"""What this node sends: messages are made for the session with a peer and signed; answers and notices wait for the
next step. Pure.

Owns neither what is sent again nor the windows (transmitter.py, streams.py).
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import NamedTuple

from agent.channel.counter import Count
from agent.channel.message import FIRST_NOTICE, LAST_NOTICE, MAX_PAYLOAD, Message
from agent.channel.peer import Peer
from agent.channel.verifier import Verifier

MAX_PENDING = 4096
"""Answers and notices between two steps; more are dropped, as the network might."""


class Content(NamedTuple):
    """What a message carries, apart from its nodes and their session."""

    kind: int
    sequence: int = 0
    part: int = 0
    parts: int = 0
    payload: bytes = b""


class Outbox:
    """The datagrams of the node `own` of a cluster; `verifier` has the keys and the counters."""

    def __init__(self, own: int, cluster: int, verifier: Verifier) -> None:
        self._own, self._cluster, self._verifier = own, cluster, verifier
        self._pending: list[tuple[IPv4Address, bytes]] = []

    @property
    def pending(self) -> bool:
        """Whether datagrams wait for the next step."""
        return bool(self._pending)

    def take(self) -> list[tuple[IPv4Address, bytes]]:
        """Return what waits, each with its destination."""
        taken, self._pending = self._pending, []
        return taken

    def notify(self, peer: Peer, kind: int, payload: bytes) -> bool:
        """Send a notice with the next step, and return whether there is a session to send it in."""
        if not peer.handshake.established or not self._verifier.authenticator:
            return False
        peer.notices_sent += 1
        self.send(peer, Content(kind, peer.notices_sent, payload=payload))
        return True

    def send(self, peer: Peer, content: Content, nonces: tuple[int, int] | None = None) -> None:
        """Send a message with the next step, whether or not the window is open. `nonces` as for `seal`."""
        if len(self._pending) < MAX_PENDING:
            self._pending.append((peer.address, self.seal(peer, content, nonces)))
        else:
            self._verifier.counters[Count.NOT_SENT] += 1

    def seal(self, peer: Peer, content: Content, nonces: tuple[int, int] | None = None) -> bytes:
        """Return a datagram. `nonces`: this node's and the peer's, by default those of the session."""
        own, remote = nonces or (peer.handshake.own, peer.handshake.remote)
        message = Message(content.kind, self._cluster, self._own, peer.number, own, remote, *content[1:])
        return self._verifier.authenticator.seal(message)


def check_notice(kind: int, payload: bytes) -> None:
    """Raise ValueError if the kind is no notice's, or the payload is longer than `MAX_PAYLOAD`."""
    if not FIRST_NOTICE <= kind <= LAST_NOTICE or len(payload) > MAX_PAYLOAD:
        raise ValueError(f"notice of kind {kind} with {len(payload)} bytes")
