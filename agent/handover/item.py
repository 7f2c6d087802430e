# SPDX-License-Identifier: Apache-2.0
"""What nodes send each other in a hand-over, as items of the channel's stream. Pure.

     0 kind                  1 IP version, 0 if none         2 number of records, 0 if none
     4 pool: which addresses and how many slots              8 content

    kind         content
    1 PULL       number of the pull (4 bytes), then a bitmap of the rows: row 0 is the highest bit of its first byte
    2 END        number of the pull that is answered: everything before it was the answer
    3 SESSIONS   records (record.py)
    4 REFUSED    records that came from the receiver: older sessions have their slots, so it is to reset these
    5 DECLINED   records that came from the receiver: the sender does not know their backends, so it is to keep these

Nodes whose pools differ number their slots differently, so they take no records from each other.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from agent.channel.message import MAX_PAYLOAD
from agent.handover.record import FORMS, Records, faults, from_wire, to_wire, version_of
from agent.handover.row_move import Rows

_HEAD = struct.Struct("!BBHI")
_NUMBER = struct.Struct("!I")


class Kind(enum.IntEnum):
    """What an item is."""

    PULL = 1
    END = 2
    SESSIONS = 3
    REFUSED = 4
    DECLINED = 5


@dataclass(frozen=True, slots=True)
class Pool:
    """What slots mean. Nodes take records from each other only if it is the same."""

    name: bytes
    """The pools' prefixes."""
    slots: int
    rows: int

    @property
    def number(self) -> int:
        """32 bits of its digest."""
        digest = hashlib.blake2b(b"%d %d " % (self.slots, self.rows) + self.name, digest_size=4).digest()
        return int.from_bytes(digest, "big")


@dataclass(frozen=True, slots=True, eq=False)
class Pull:
    """A request for all records of these rows."""

    number: int
    rows: Rows


@dataclass(frozen=True, slots=True)
class End:
    """The end of the answer to a pull."""

    number: int


@dataclass(frozen=True, slots=True, eq=False)
class Sessions:
    """Records of an IP version, as on the wire: sent, refused or declined."""

    kind: Kind
    version: int
    content: bytes


Item = Pull | End | Sessions


class Codec:
    """Encodes and decodes the items of a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self._number = pool, pool.number

    def pull(self, number: int, rows: Rows) -> bytes:
        """Return the item that asks for these rows."""
        return self._head(Kind.PULL) + _NUMBER.pack(number) + np.packbits(rows).tobytes()

    def end(self, number: int) -> bytes:
        """Return the item that ends an answer."""
        return self._head(Kind.END) + _NUMBER.pack(number)

    def sessions(self, records: Records, kind: Kind = Kind.SESSIONS) -> Iterator[bytes]:
        """Return the items for so many records, one after the other."""
        version = version_of(records)
        each = (MAX_PAYLOAD - _HEAD.size) // records.dtype.itemsize
        for at in range(0, len(records), each):
            some = records[at : at + each]
            yield self._head(kind, version, len(some)) + to_wire(some)

    def decode(self, data: bytes) -> Item:
        """Return the content of an item. Raises ValueError with what is wrong."""
        if len(data) < _HEAD.size:
            raise ValueError(f"an item has {len(data)} bytes")
        kind, version, count, pool = _HEAD.unpack_from(data)
        content = data[_HEAD.size :]
        if pool != self._number:
            raise ValueError(
                "the pool is another one: nat.pool, nat.pool6 and nat.sessions must be the same everywhere"
            )
        if kind in (Kind.SESSIONS, Kind.REFUSED, Kind.DECLINED):
            form = FORMS.get(version)
            if form is None or not count or len(content) != count * form.itemsize:
                raise ValueError(f"{count} records of IP version {version} in {len(content)} bytes")
            return Sessions(Kind(kind), version, content)
        if kind == Kind.END and len(content) == _NUMBER.size:
            return End(*_NUMBER.unpack(content))
        if kind == Kind.PULL and len(content) == _NUMBER.size + (self._pool.rows + 7) // 8:
            bits = np.unpackbits(np.frombuffer(content, np.uint8, offset=_NUMBER.size), count=self._pool.rows)
            return Pull(_NUMBER.unpack_from(content)[0], bits.astype(np.bool_))
        raise ValueError(f"an item of kind {kind} has {len(content)} bytes")

    def records(self, version: int, content: bytes) -> tuple[Records, int, str]:
        """Return the records of some items, but for those that no node sends; how many these are, and why one is."""
        records = from_wire(content, version)
        wrong, why = faults(records, self._pool.slots)
        return (records[~wrong], int(wrong.sum()), why) if why else (records, 0, "")

    def _head(self, kind: Kind, version: int = 0, count: int = 0) -> bytes:
        return _HEAD.pack(kind, version, count, self._number)
