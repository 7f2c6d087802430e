# SPDX-License-Identifier: Apache-2.0
"""The sessions of one node, from maps of one size into those of another, while programs use both. numpy in memory.

A slot is the same session in both. What the program of the former maps does meanwhile is copied again:

    copy = SessionCopy(former, present, kept)
    copy.begin(), and copy.follow() as often as need be, while no program uses the present maps
    copy.finish(), once no program uses the former ones any more: the other may have changed tags since

`finish` alone merges maps of which a process that ended had copied all, with what either program has changed since.

Both programs make no session between the last `follow` and `finish` (`NatMaps.set_moving`), so that none gets a slot
that is used in the other maps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bpf.kernel import atomic
from bpf.layout.nat import bucket_bits
from bpf.layout.session import SessionState, TagFlag
from bpf.maps.session_map import SessionMap, Tags

Slots = npt.NDArray[np.int64]

_STAMP: Final = np.uint64(0xFFFF_FFFF)
"""Of a tag; a free one has nothing else."""
_STATE: Final = np.uint64(0xFF << 40)
_RESERVED: Final = np.uint64(SessionState.RESERVED << 40)
"""A reserved slot has an empty record, and so no number."""
_FLAGS: Final = np.uint64(0xFF << 32)
_FINGERPRINT: Final = np.uint64(0xFFFF << 48)
_FLOW: Final = np.uint64(0xFFFE << 48)
"""The fingerprint but for the bit without which no flow has it: that of a session that was closed for its client."""
_IPV6: Final = np.uint64(TagFlag.IPV6 << 32)
_PART: Final = 1 << 15
"""Slots that are copied in one go: a few milliseconds, after which other threads run."""
_ATTEMPTS: Final = 5
"""Of a change that a program is faster than: it changes a tag about once a second."""


class SessionCopy:
    """A copy of the sessions that began among a number of slots of `numbers`: others end. Reserved slots stay so."""

    def __init__(self, former: SessionMap, present: SessionMap, numbers: Collection[int]) -> None:
        self._former, self._present = former, present
        self._slots = min(len(former), len(present))
        self._bits = [bucket_bits(number) for number in numbers]
        self._seen = np.zeros(self._slots, np.uint64)
        """The tags as they were copied."""

    def begin(self) -> None:
        """Copy all, over whatever is there: of a copy that a process left, sessions may have ended since."""
        self._present.tags[:] = 0
        self.follow()

    def follow(self) -> int:
        """Copy what has changed since the last time; return how many slots."""
        count = 0
        for slots, tags in self._changed():
            self._copy_records(slots, tags)
            self._present.tags[slots] = tags
            self._seen[slots] = tags
            count += len(slots)
        return count

    def finish(self) -> int:
        """Bring to the present maps what has changed since; return how many changes could not be made."""
        return sum(self._merge(slots, tags) for slots, tags in self._changed())

    def _merge(self, slots: Slots, tags: Tags) -> int:
        for _ in range(_ATTEMPTS):
            if not len(slots):
                break
            now = self._present.tags[slots]
            untouched = now == self._seen[slots]
            new = np.where(untouched, tags, chosen(now, tags))
            differs = new != now
            slots, tags, now, new = slots[differs], tags[differs], now[differs], new[differs]
            taken = (new == tags) & (untouched[differs] | _has_ended(now) | _has_ended(tags))
            self._copy_records(slots[taken], tags[taken])  # where a program may read it, it is the same one
            done = atomic.compare_exchange(self._present.tags, slots, now, new)
            slots, tags = slots[~done], tags[~done]
        return len(slots)

    def _changed(self) -> Iterator[tuple[Slots, Tags]]:
        """Yield, in parts, the slots whose tags are others than those that were copied, and these tags."""
        for start in range(0, self._slots, _PART):
            tags = self._former.tags[start : min(start + _PART, self._slots)].copy()
            places = np.flatnonzero(tags != self._seen[start : start + len(tags)])
            changed, slots = tags[places], places + start
            bits = self._former.sessions4["bucket_bits"][slots]
            ipv6 = changed & _IPV6 != 0
            if ipv6.any():
                six = self._former.sessions6
                bits[ipv6] = six["bucket_bits"][slots[ipv6]] if six is not None else 0
            kept = np.isin(bits, self._bits) | _has_ended(changed)
            yield slots[kept], changed[kept]

    def _copy_records(self, slots: Slots, tags: Tags) -> None:
        """Copy the records of slots with these tags, each of its family."""
        ipv6 = tags & _IPV6 != 0
        for chosen, old, new in (
            (~ipv6, self._former.sessions4, self._present.sessions4),
            (ipv6, self._former.sessions6, self._present.sessions6),
        ):
            if old is not None and new is not None and chosen.any():
                some = slots[chosen]
                _bytes(new)[some] = _bytes(old)[some]


def chosen(now: Tags, former: Tags) -> Tags:
    """Return which tags slots get that have two, in the present maps and in the former.

    Of a session and a slot that is free or reserved, the one with the later stamp: what is free has the last stamp of
    its session. So a session that has ended in one of the maps ends, unless it had a packet in the other since. Of two
    sessions the present one stays.
    """
    ended, former_ended = _has_ended(now), _has_ended(former)
    later = former & _STAMP > now & _STAMP
    later |= former_ended & ~ended & (former & _STAMP == now & _STAMP)
    same = ~ended & ~former_ended & ((now ^ former) & _FLOW == 0)
    found: Tags = np.where(same, merged(now, former), np.where((ended | former_ended) & later, former, now))
    return found


def _has_ended(tags: Tags) -> npt.NDArray[np.bool_]:
    """Return which slots have no session: they are free, or reserved."""
    found: npt.NDArray[np.bool_] = (tags <= _STAMP) | (tags & _STATE == _RESERVED)
    return found


def merged(one: Tags, other: Tags) -> Tags:
    """Return the tags of sessions that two programs followed: the more advanced state, all flags, the later stamp. What
    one of them closed for its client is closed."""
    found: Tags = (
        one & other & _FINGERPRINT
        | np.maximum(one & _STATE, other & _STATE)
        | (one | other) & _FLAGS
        | np.maximum(one & _STAMP, other & _STAMP)
    )
    return found


def _bytes(records: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return records as rows of bytes: numpy copies structured values by their fields, which do not cover all."""
    return records.view(np.uint8).reshape(len(records), records.dtype.itemsize)
