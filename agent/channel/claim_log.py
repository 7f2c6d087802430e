# SPDX-License-Identifier: Apache-2.0
"""A node's claims as a log that every peer reads to its end: the whole set first, then differences. Pure.

    entry 0: boot (8 bytes) and the whole set     entry 1: what changed     entry 2: ...

Each entry is cut into parts, and each part is a datagram (CLAIMS) of its own, acknowledged and repeated like a state's.
Its payload begins with a byte: 1 in the last part of an entry. Parts count from 0 through the whole log, and are read
in this order. A log that has grown begins again with another sequence: what a reader has read counts until it has read
the new one's first entry. So a change costs each peer one small datagram, and whoever comes later reads the same log.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from agent.channel.claim_set import RECORDS_MAX, ClaimSet, decode, difference, encode, equal
from agent.channel.message import MAX_PAYLOAD, Message

MAX_LOG_PARTS: Final = 1024
"""A megabyte, of one node. A set that needs more is not sent."""
GROWTH_PARTS: Final = 64
"""Parts of differences until a log begins again, if they are more than the whole set too."""
_BOOT = struct.Struct("!Q")
_LAST, _MORE = b"\1", b"\0"


@dataclass(frozen=True, slots=True, eq=False)
class NodeClaims:
    """What a node claims. `boot`: with another one its connections are gone."""

    boot: int = 0
    rows: ClaimSet = field(default_factory=dict)

    def equals(self, other: NodeClaims | None) -> bool:
        """Return whether these are the same claims."""
        return other is not None and self.boot == other.boot and equal(self.rows, other.rows)


class ClaimLog:
    """The log of this node."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._whole = 0
        """The number of parts of the whole set."""
        self._claims: NodeClaims | None = None

    def write(self, claims: NodeClaims) -> bool | None:
        """Bring the log to these claims: return True if it begins again, False if parts were added, None if neither.

        Raises ValueError if the set is too large for a log.
        """
        before = self._claims
        if before is not None and before.equals(claims):
            return None
        if before is not None and before.boot == claims.boot:
            added = _split(encode(difference(before.rows, claims.rows)))
            if len(self.parts) + len(added) <= self._whole + max(self._whole, GROWTH_PARTS):
                self.parts += added
                self._claims = claims
                return False
        parts = _split(_BOOT.pack(claims.boot) + encode(claims.rows))
        if len(parts) > MAX_LOG_PARTS // 2:
            raise ValueError(f"the claims have {len(parts)} parts, more than {MAX_LOG_PARTS // 2}")
        self.parts, self._whole, self._claims = parts, len(parts), claims
        return True


class ClaimReader:
    """A reader of a peer's log, within one session."""

    __slots__ = ("_claims", "_entry", "_next", "_parts", "_sequence", "fault")

    def __init__(self) -> None:
        self.fault = ""
        """Why the log cannot be read any further; empty if it can."""
        self._sequence = -1
        self._restart(-1)

    def _restart(self, sequence: int) -> None:
        self._sequence, self._next = sequence, 0
        self._parts: dict[int, bytes] = {}
        """Those that arrived before an earlier one."""
        self._entry: list[bytes] = []
        self._claims: NodeClaims | None = None
        self.fault = ""

    def is_superseded(self, message: Message) -> bool:
        """Return whether a newer log is known, or no log has such a part: it is not acknowledged."""
        return message.sequence < self._sequence or message.part >= MAX_LOG_PARTS

    def add(self, message: Message) -> NodeClaims | None:
        """Take a part. Return the peer's claims if they are other ones now. Raises ValueError, once for each log, if
        it cannot be read: what was read before counts on."""
        if message.sequence > self._sequence:
            self._restart(message.sequence)
        if self.fault or message.part < self._next:
            return None
        self._parts[message.part] = message.payload
        before = self._claims
        while (part := self._parts.pop(self._next, None)) is not None:
            self._next += 1
            self._entry.append(part[1:])
            if part[:1] == _LAST:
                entry, self._entry = b"".join(self._entry), []
                try:
                    self._claims = self._read(entry)
                except ValueError as error:
                    self.fault, self._parts = str(error), {}
                    raise
        return self._claims if self._claims is not before else None

    def _read(self, entry: bytes) -> NodeClaims:
        if self._claims is not None:
            rows = difference(self._claims.rows, decode(entry))
            if len(rows) > RECORDS_MAX:
                raise ValueError(f"the differences make more than {RECORDS_MAX} records")
            return NodeClaims(self._claims.boot, rows)
        if len(entry) < _BOOT.size:
            raise ValueError("the set has no boot")
        return NodeClaims(_BOOT.unpack_from(entry)[0], decode(entry[_BOOT.size :]))


def _split(entry: bytes) -> list[bytes]:
    size = MAX_PAYLOAD - 1
    pieces = [entry[at : at + size] for at in range(0, len(entry), size)]
    return [*(_MORE + one for one in pieces[:-1]), _LAST + pieces[-1]]
