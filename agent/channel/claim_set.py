# SPDX-License-Identifier: Apache-2.0
"""A node's claims as bytes: the rows that it claims, by service and epoch. Pure; claim_log.py sends them.

A record for each service and epoch with claims, one after the other; all in network order.

     0 IP version: 4, 6     1 protocol as in IP: 6, 17     2 port, 0 for any
     4 epoch                8 form                         9 bytes of rows that follow the VIP
    13 VIP (4 or 16 bytes), then the rows

    form 0  the rows' numbers, ascending, 2 bytes each
    form 1  the same with 4 bytes each
    form 2  a bitmap: row 0 is the highest bit of its first byte

The shortest form is used. A difference between two sets is a set as well: the rows that are in one of both.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.channel.state import ServiceEndpoint
from agent.table.table import RowNumbers

ROWS_MAX: Final = 262_144
RECORDS_MAX: Final = 4096

ClaimKey = tuple[ServiceEndpoint, int]
"""A service and the number of an epoch."""
ClaimSet = Mapping[ClaimKey, RowNumbers]
"""The rows of each, ascending; none is empty."""

_ROW_BITS, _NO_ROWS = np.uint64(32), np.zeros(0, np.uint64)
_RECORD = struct.Struct("!BBHIBI")
_PROTOCOLS = {"tcp": 6, "udp": 17}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOLS.items()}
_SHORT, _LONG, _BITMAP = range(3)
_NUMBERS: Final[dict[int, np.dtype[Any]]] = {_SHORT: np.dtype(">u2"), _LONG: np.dtype(">u4")}


def encode(claims: ClaimSet) -> bytes:
    """Return the bytes of a set, equal for equal sets."""
    return b"".join(
        _record(*key, claims[key]) for key in sorted(claims, key=lambda key: (key[0].vip.packed, *key[0][1:], key[1]))
    )


def decode(data: bytes) -> dict[ClaimKey, RowNumbers]:
    """Return the set in these bytes. Raises ValueError with what is wrong."""
    found: dict[ClaimKey, RowNumbers] = {}
    for key, rows in _records(data):
        if key in found or len(found) == RECORDS_MAX:
            raise ValueError(f"{key[0]} is there twice, or there are more than {RECORDS_MAX} records")
        found[key] = rows
    numbered = _numbered([*found.values()])
    if (numbered[1:] <= numbered[:-1]).any():
        raise ValueError("the rows of a record are not in order")
    return found


def difference(one: ClaimSet, other: ClaimSet) -> dict[ClaimKey, RowNumbers]:
    """Return the rows that are in one of both sets; a set and the difference to another one give the other one."""
    found = {key: rows for key, rows in other.items() if key not in one}
    both: list[tuple[ClaimKey, RowNumbers, RowNumbers]] = []
    for key, rows in one.items():
        others = other.get(key)
        if others is None:
            found[key] = rows
        elif others is not rows:
            both.append((key, rows, others))
    # One step for all services: it takes as long as for a single one.
    before, after = _numbered([rows for _, rows, _ in both]), _numbered([rows for _, _, rows in both])
    changed = np.setxor1d(before, after, assume_unique=True)
    ends = np.searchsorted(changed, np.arange(len(both) + 1, dtype=np.uint64) << _ROW_BITS).tolist()
    numbers = changed.astype(np.uint32)
    for (key, _, _), start, end in zip(both, ends, ends[1:], strict=False):
        if start < end:
            found[key] = numbers[start:end].copy()
    return found


def equal(one: ClaimSet, other: ClaimSet) -> bool:
    """Return whether two sets are equal."""
    same = (rows is other[key] or np.array_equal(rows, other[key]) for key, rows in one.items())
    return one.keys() == other.keys() and all(same)


def _numbered(lists: Sequence[RowNumbers]) -> NDArray[np.uint64]:
    """Return the rows of all lists, each with the number of its list in front."""
    numbers = np.repeat(np.arange(len(lists), dtype=np.uint64) << _ROW_BITS, list(map(len, lists)))
    numbered: NDArray[np.uint64] = numbers | np.concatenate([_NO_ROWS, *lists])
    return numbered


def _record(service: ServiceEndpoint, epoch: int, rows: RowNumbers) -> bytes:
    last = int(rows[-1])
    form = _SHORT if last < 1 << 16 else _LONG
    if last // 8 + 1 < len(rows) * _NUMBERS[form].itemsize:
        form, bits = _BITMAP, np.zeros(last + 1, np.bool_)
        bits[rows] = True
        data = np.packbits(bits).tobytes()
    else:
        data = rows.astype(_NUMBERS[form]).tobytes()
    vip = service.vip
    head = _RECORD.pack(vip.version, _PROTOCOLS[service.protocol], service.port, epoch, form, len(data))
    return head + vip.packed + data


@functools.lru_cache(RECORDS_MAX)
def _key(vip: bytes, protocol: int, port: int, epoch: int) -> ClaimKey:
    """Return the same object for the same service and epoch: all nodes claim rows of the same ones."""
    address = IPv4Address(vip) if len(vip) == 4 else IPv6Address(vip)
    return ServiceEndpoint(address, _PROTOCOL_NAMES[protocol], port), epoch


def _records(data: bytes) -> Iterator[tuple[ClaimKey, RowNumbers]]:
    at = 0
    while at < len(data):
        if len(data) - at < _RECORD.size:
            raise ValueError(f"the record at byte {at} is cut")
        version, protocol, port, epoch, form, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        size = {4: 4, 6: 16}.get(version, 0)
        if not size or protocol not in _PROTOCOL_NAMES:
            raise ValueError(f"IP version {version}, protocol {protocol}")
        if len(data) - at < size + length:
            raise ValueError(f"the record is cut: {len(data) - at} of {size + length} bytes")
        rows = at + size
        yield _key(data[at:rows], protocol, port, epoch), _rows(form, data[rows : rows + length])
        at = rows + length


def _rows(form: int, data: bytes) -> RowNumbers:
    """Return the rows of a record; whether they are in order is not checked."""
    if form == _BITMAP and len(data) <= ROWS_MAX // 8:
        rows = np.flatnonzero(np.unpackbits(np.frombuffer(data, np.uint8))).astype(np.uint32)
    elif form in _NUMBERS and len(data) % _NUMBERS[form].itemsize == 0:
        rows = np.frombuffer(data, _NUMBERS[form]).astype(np.uint32)
    else:
        raise ValueError(f"rows of form {form} in {len(data)} bytes")
    if not len(rows) or rows[-1] >= ROWS_MAX:
        raise ValueError("a record has no rows, or too high ones")
    return rows
