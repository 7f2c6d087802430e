# SPDX-License-Identifier: Apache-2.0
"""The session of two nodes: whose datagrams are fresh, and which part of which state has arrived. Pure.

    A, with spare nonce a                          B, with spare nonce b
      HELLO (a, 0)          ──────────────────►      answers with its spare nonce
      session (a, b)        ◄──────────────────      HELLO_ACK (b, a)
      STATE (a, b)          ──────────────────►      session (b, a)

The rules:
 1. A node has a spare nonce for each peer, random and never used before. It shows the spare nonce in its HELLO, and in
    its answer to a HELLO.
 2. Whoever sends a datagram with our spare nonce as the receiver's has seen it, so the datagram is fresh: its sender's
    nonce and our spare one are the session from now on, and there is a new spare nonce.
 3. Everything but a HELLO counts only with both nonces of the session. So whatever was sent in an earlier session, by
    an earlier process, or to an earlier process, is void.
 4. A HELLO proves nothing, as it may be a copy. It is answered, and the session goes on until rule 2 replaces it.
 5. A HELLO with the nonce that the session has already is answered with the session's own nonce: one of several copies
    must not start another session.

Within a session the sequence numbers of states and notices only grow: a copy counts once.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from agent.channel.message import Message


class Freshness(enum.Enum):
    """What a datagram's nonces show."""

    CURRENT = enum.auto()
    """It belongs to the session."""
    NEW = enum.auto()
    """It has begun a session."""
    STALE = enum.auto()
    """It belongs to another session, past or not known yet."""


class Handshake:
    """The nonces of one peer's session. `nonce` returns unpredictable numbers of 64 bits, not 0."""

    __slots__ = ("_nonce", "own", "remote", "spare")

    def __init__(self, nonce: Callable[[], int]) -> None:
        self._nonce = nonce
        self.own = self.remote = 0
        """Of the session; 0 while there is none."""
        self.spare = nonce()

    @property
    def established(self) -> bool:
        """Whether there is a session."""
        return self.own != 0

    def receive(self, message: Message) -> Freshness:
        """Judge a datagram other than a HELLO, and begin a session if it proves to be fresh (rules 2 and 3)."""
        if message.receiver_nonce == self.spare:
            self.own, self.remote = self.spare, message.sender_nonce
            self.spare = self._nonce()
            return Freshness.NEW
        matches = (message.receiver_nonce, message.sender_nonce) == (self.own, self.remote)
        return Freshness.CURRENT if matches and self.established else Freshness.STALE

    def answer(self, hello: Message) -> int:
        """Return our nonce in the answer to a HELLO (rules 4 and 5)."""
        return self.own if hello.sender_nonce == self.remote else self.spare


class Reassembly:
    """The states that arrive in one session, of which only the newest counts."""

    __slots__ = ("_count", "_parts", "_sequence")

    def __init__(self) -> None:
        self._sequence = 0
        self._count = 0
        self._parts: dict[int, bytes] = {}
        """Of the newest state; empty once it is whole."""

    def is_superseded(self, message: Message) -> bool:
        """Return whether a newer state is known: its sender must not take this part for delivered."""
        return message.sequence < self._sequence

    def add(self, message: Message) -> bytes | None:
        """Take a part. Return the state once its last part has arrived; None before, and for copies and old states."""
        if message.sequence > self._sequence:
            self._sequence, self._count, self._parts = message.sequence, message.parts, {}
        elif message.sequence < self._sequence or message.parts != self._count or not self._parts:
            return None
        self._parts[message.part] = message.payload
        if len(self._parts) < self._count:
            return None
        state = b"".join(self._parts[part] for part in range(self._count))
        self._parts = {}
        return state
