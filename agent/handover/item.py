# SPDX-License-Identifier: Apache-2.0
"""What nodes send each other in a hand-over, as items of the channel's stream. Pure.

     0 kind                  1 IP version, 0 if none         2 number of records, 0 if none
     4 what slots mean, of records their origin too (`Slots`)  8 content

    kind         content
    1 PULL       number of the pull (4 bytes), then a bitmap of the rows: row 0 is the highest bit of its first byte
    2 END        number of the pull that is answered: everything before it was the answer
    3 SESSIONS   records (record.py)
    4 REFUSED    records that came from the receiver: older sessions have their slots, so it is to reset these
    5 DECLINED   records that came from the receiver: the sender does not know their backends, so it is to keep these

A slot is an endpoint of the pool that its session is of, and among `nat.sessions` of them its client's packets find it:
those of its origin, which is the present one, or the former one while that is in use. A node takes no records of an
origin that it does not know, and declines them as they came; but it reserves their slots, which mean the same whatever
the number. Where it has an older session of the same endpoint and backend, it refuses the record.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from agent.address import Network
from agent.channel.message import MAX_PAYLOAD
from agent.handover.record import FORMS, Records, faults, from_wire, to_wire, version_of
from agent.handover.row_move import Rows
from bpf.layout.nat import SESSIONS_MAX, SESSIONS_MIN

_HEAD = struct.Struct("!BBHI")
_NUMBER = struct.Struct("!I")


class Kind(enum.IntEnum):
    """What an item is."""

    PULL = 1
    END = 2
    SESSIONS = 3
    REFUSED = 4
    DECLINED = 5


class Origin(NamedTuple):
    """What a session got when it began: an address of the pool, and a slot among so many sessions."""

    pool: Network
    sessions: int


@dataclass(frozen=True, slots=True)
class Slots:
    """What slots mean: how many rows they are of, and the origins by IP version; records name one by its place
    there."""

    rows: int
    origins: Mapping[int, Sequence[Origin]]

    @property
    def count(self) -> int:
        """The number of slots."""
        return max(one.sessions for some in self.origins.values() for one in some)

    def number(self, origin: Origin | None = None) -> int:
        """Return 32 bits of the digest, with an origin or without. A pool's size decides nothing."""
        name = f"{origin.pool[0]} {origin.sessions}" if origin is not None else ""
        text = f"buckets of {self.rows} rows {name}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


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
    origin: int = 0
    """Its place in `Slots.origins`."""


Item = Pull | End | Sessions


class UnknownOrigin(ValueError):
    """These records are of an origin that this node does not know, `number` on the wire: `answer` is the item that
    declines them. With `same_pool` only the number of sessions is unknown: then the records name an origin of that
    pool, and their endpoints are those of this node's slots."""

    def __init__(self, reason: str, records: Records, number: int, same_pool: bool, answer: bytes) -> None:
        super().__init__(reason)
        self.records, self.number, self.same_pool, self.answer = records, number, same_pool, answer


class Codec:
    """Encodes and decodes the items of nodes with the same slots."""

    def __init__(self, slots: Slots) -> None:
        self._slots, self._number = slots, slots.number()
        self._origins = {version: [slots.number(one) for one in some] for version, some in slots.origins.items()}
        self._of_pools = {
            version: {
                slots.number(Origin(one.pool, 1 << bits)): place
                for place, one in enumerate(some)
                for bits in range(SESSIONS_MIN.bit_length() - 1, SESSIONS_MAX.bit_length())
            }
            for version, some in slots.origins.items()
        }
        """By IP version, the places of all origins with the pools that are known, whatever their number of sessions."""

    def pull(self, number: int, rows: Rows) -> bytes:
        """Return the item that asks for these rows."""
        return self._head(Kind.PULL, self._number) + _NUMBER.pack(number) + np.packbits(rows).tobytes()

    def end(self, number: int) -> bytes:
        """Return the item that ends an answer."""
        return self._head(Kind.END, self._number) + _NUMBER.pack(number)

    def sessions(self, records: Records, kind: Kind = Kind.SESSIONS) -> Iterator[bytes]:
        """Return the items for so many records, one after the other."""
        for place, number in enumerate(self._origins.get(version_of(records), ())):
            yield from self.of_origin(records[records["origin"] == place], kind, number)

    def of_origin(self, records: Records, kind: Kind, number: int) -> Iterator[bytes]:
        """Return the items for so many records of an origin, by its number on the wire."""
        each = (MAX_PAYLOAD - _HEAD.size) // records.dtype.itemsize
        for at in range(0, len(records), each):
            some = records[at : at + each]
            yield self._head(kind, number, version_of(records), len(some)) + to_wire(some)

    def decode(self, data: bytes) -> Item:
        """Return the content of an item. Raises ValueError with what is wrong: UnknownOrigin if that is all."""
        if len(data) < _HEAD.size:
            raise ValueError(f"an item has {len(data)} bytes")
        kind, version, count, origin = _HEAD.unpack_from(data)
        content = data[_HEAD.size :]
        of_sessions = kind in (Kind.SESSIONS, Kind.REFUSED, Kind.DECLINED)
        known = self._origins.get(version, []) if of_sessions and version in FORMS else [self._number]
        if origin not in known:
            why = "the pool is another one: nat.pool, nat.pool6 and nat.sessions must be the same everywhere"
            if kind != Kind.SESSIONS:
                raise ValueError(why)
            place = self._of_pools.get(version, {}).get(origin)
            records = self._records_of(content, version, count, place or 0)
            raise UnknownOrigin(why, records, origin, place is not None, bytes([Kind.DECLINED]) + data[1:])
        if of_sessions:
            self._records_of(content, version, count)
            return Sessions(Kind(kind), version, content, known.index(origin))
        if kind == Kind.END and len(content) == _NUMBER.size:
            return End(*_NUMBER.unpack(content))
        if kind == Kind.PULL and len(content) == _NUMBER.size + (self._slots.rows + 7) // 8:
            bits = np.unpackbits(np.frombuffer(content, np.uint8, offset=_NUMBER.size), count=self._slots.rows)
            return Pull(_NUMBER.unpack_from(content)[0], bits.astype(np.bool_))
        raise ValueError(f"an item of kind {kind} has {len(content)} bytes")

    def records(self, version: int, content: bytes, origin: int = 0) -> tuple[Records, int, str]:
        """Return the records of some items of an origin, but for those that no node sends; how many these are, and why
        one is."""
        records = from_wire(content, version, origin)
        wrong, why = faults(records, self._slots.count)
        return (records[~wrong], int(wrong.sum()), why) if why else (records, 0, "")

    @staticmethod
    def _records_of(content: bytes, version: int, count: int, origin: int = 0) -> Records:
        form = FORMS.get(version)
        if form is None or not count or len(content) != count * form.itemsize:
            raise ValueError(f"{count} records of IP version {version} in {len(content)} bytes")
        return from_wire(content, version, origin)

    @staticmethod
    def _head(kind: Kind, number: int, version: int = 0, count: int = 0) -> bytes:
        return _HEAD.pack(kind, version, count, number)
