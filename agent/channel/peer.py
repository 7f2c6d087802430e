# SPDX-License-Identifier: Apache-2.0
"""What a node keeps of each other node: the session, what arrived, what is to be sent. Pure; bounded in size."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from agent.channel.claim_log import ClaimReader
from agent.channel.message import Kind
from agent.channel.session import Handshake, Reassembly
from agent.channel.stream import Receiver, Sender


@dataclass(slots=True, eq=False)
class Peer:
    """One other node. `number` is its address as one, which hashes faster."""

    address: IPv4Address
    number: int
    handshake: Handshake
    reassembly: Reassembly = field(default_factory=Reassembly)
    claims: ClaimReader = field(default_factory=ClaimReader)
    outgoing: Sender = field(default_factory=Sender)
    incoming: Receiver = field(default_factory=Receiver)
    """The streams of items to and from this peer."""
    reads_claims: bool = False
    """Whether the peer's state says so: another release would not acknowledge them."""
    notices_received: int = 0
    """The sequence of the last notice in this session."""
    notices_sent: int = 0
    shown_at: float = float("-inf")
    """When it was last shown the session's nonces, because it used others."""

    silent: bool = True
    """Whether there is no session, or the peer acknowledges nothing: it is sent HELLOs instead of states."""
    hellos: int = 0
    """HELLOs since it is silent."""
    hello_at: float = float("-inf")
    """When the last HELLO was sent."""
    missing: set[tuple[Kind, int]] = field(default_factory=set)
    """The parts of this node's state and claims that the peer has not acknowledged."""
    unsent: list[tuple[Kind, int]] = field(default_factory=list)
    """Those that the present attempt has yet to send, the last one first."""
    attempt: int = 0
    queue: deque[Peer] | None = None
    """The queue in which it waits for the window."""

    @classmethod
    def create(cls, address: IPv4Address, nonce: Callable[[], int]) -> Peer:
        """Return a peer without a session."""
        return cls(address, int(address), Handshake(nonce))

    def begin_session(self) -> None:
        """Forget how far the last session had come."""
        self.reassembly, self.claims, self.reads_claims = Reassembly(), ClaimReader(), False
        self.incoming = Receiver()
        self.outgoing.restart()
        self.missing = set()
        self.notices_received = self.notices_sent = 0
        self.silent = False
