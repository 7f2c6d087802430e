# SPDX-License-Identifier: Apache-2.0
"""The form of sessions in the maps of one node, tags and stored records, and that of the records that travel. Pure.

A clock of one node's, the indexes of its backends, its pools and numbers of sessions: record.py has none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.handover.item import Origin
from agent.handover.record import FORMS, Records, version_of
from bpf.layout.nat import FIRST_PORT, PORT_BITS, bucket_bits
from bpf.layout.session import TagFlag
from bpf.maps.session_dtype import SESSION4_DTYPE, SESSION6_DTYPE

Slots = NDArray[np.int64]
Tags = NDArray[np.uint64]

_ENDS: Final = ("client", "vip", "backend")
_COPIED: Final = ("client_port", "vip_port", "backend_port", "protocol", "client_ack", "backend_ack")


class StoredForm:
    """The stored records of one node, whose pools and numbers of sessions are `origins`, by IP version and in the order
    in which records name them (item.py). Ticks are this node's."""

    def __init__(self, origins: Mapping[int, Sequence[Origin]]) -> None:
        self._bases = {
            version: np.array([list(one.pool[0].packed) for one in some], np.uint8) for version, some in origins.items()
        }
        """The first address of each origin's pool, by IP version: shape (origins, bytes)."""
        self._bits = {
            version: np.array([bucket_bits(one.sessions) for one in some], np.uint8)
            for version, some in origins.items()
        }
        """Likewise what records have of their number of sessions."""

    def records(self, version: int, slots: Slots, tags: Tags, stored: NDArray[Any], tick: int) -> Records:
        """Return the records of slots from their tags and what is stored."""
        records = np.zeros(len(slots), FORMS[version])
        records["slot"] = slots
        records["fingerprint"] = tags >> np.uint64(48)
        records["state"] = states_of(tags)
        records["flags"] = tags >> np.uint64(32) & np.uint64(0xFF & ~TagFlag.COPIED)
        records["stamp_age"] = ages_of(tags, tick)
        records["created_age"] = np.maximum(age_of(tick, stored["created"]), records["stamp_age"])
        for name in _ENDS:
            records[name] = as_bytes(stored[name])
        records["sums"] = as_bytes(stored["sums"])
        for name in _COPIED:
            records[name] = stored[name]
        for place in range(1, len(self._bases.get(version, ()))):
            nat = self.nat_addresses(version, slots, np.full(len(slots), place))
            same_number = stored["bucket_bits"] == self._bits[version][place]
            records["origin"][same_number & (as_bytes(stored["nat"]) == nat).all(axis=1)] = place
        return records

    def nat_addresses(self, version: int, slots: NDArray[Any], origins: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the NAT address of each slot, in the pool of that origin; shape (slots, bytes)."""
        nat: NDArray[np.uint8] = self._bases[version][origins]
        low = nat[:, -4:].copy().view(">u4")[:, 0] + (slots >> PORT_BITS).astype(np.uint32)
        nat[:, -4:] = low.astype(">u4").view(np.uint8).reshape(-1, 4)
        return nat

    def to_store(self, records: Records, places: NDArray[np.int64], tick: int) -> NDArray[Any]:
        """Return records as they are stored here. `places` are slots of services and indexes of backends."""
        version = version_of(records)
        stored = np.zeros(len(records), SESSION4_DTYPE if version == 4 else SESSION6_DTYPE)
        for name in (*_ENDS, "sums"):
            stored[name] = np.ascontiguousarray(records[name]).view(stored.dtype[name])[:, 0]
        for name in _COPIED:
            stored[name] = records[name]
        nat = self.nat_addresses(version, records["slot"], records["origin"])
        stored["bucket_bits"] = self._bits[version][records["origin"]]
        stored["nat"] = nat.view(stored.dtype["nat"])[:, 0]
        stored["nat_port"] = FIRST_PORT | records["slot"] & np.uint32((1 << PORT_BITS) - 1)
        stored["family"] = version
        stored["service_slot"], stored["backend_index"] = places[:, 0], places[:, 1]
        stored["created"] = np.uint32(tick) - records["created_age"]
        return stored


def states_of(tags: Tags) -> Tags:
    """Return the states of sessions."""
    return tags >> np.uint64(40) & np.uint64(0xFF)


def are_ipv6(tags: Tags) -> NDArray[np.bool_]:
    """Return which sessions are of IPv6."""
    found: NDArray[np.bool_] = (tags >> np.uint64(32) & np.uint64(TagFlag.IPV6)) != 0
    return found


def ages_of(tags: Tags, tick: int) -> NDArray[np.uint32]:
    """Return how many ticks ago sessions had their last packets."""
    return age_of(tick, tags.astype(np.uint32))


def age_of(tick: int, stamps: NDArray[Any]) -> NDArray[np.uint32]:
    """Return how many ticks ago stamps were; 0 for one that is just ahead of `tick`."""
    ages = np.uint32(tick) - stamps.astype(np.uint32)
    return np.where(ages >> np.uint32(31), np.uint32(0), ages).astype(np.uint32)


def tags_of(records: Records, tick: int) -> Tags:
    """Return the tags of records."""
    stamps = np.uint32(tick) - records["stamp_age"].astype(np.uint32)
    high = records["fingerprint"].astype(np.uint64) << np.uint64(48)
    state = records["state"].astype(np.uint64) << np.uint64(40)
    flags = records["flags"].astype(np.uint64) << np.uint64(32)
    found: Tags = high | state | flags | stamps.astype(np.uint64)
    return found


def as_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return values as rows of bytes."""
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), values.dtype.itemsize)
