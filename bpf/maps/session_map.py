# SPDX-License-Identifier: Apache-2.0
"""The sessions of NAT, mapped into memory: their tags and records, as numpy sees them.

The program changes both at any time. A tag changes by compare-and-exchange alone (bpf/kernel/atomic.py), and a record
is written only by who holds its tag BUSY.
"""

import contextlib
import mmap
import time
from collections.abc import Mapping
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from bpf.layout.map_spec import NatShape
from bpf.layout.session import TICK_SHIFT, Session
from bpf.maps.pinned_map import PinnedMap
from bpf.maps.session_dtype import SESSION4_DTYPE, SESSION6_DTYPE

Tags = npt.NDArray[np.uint64]
"""By slot, the tags; see nat_layout.h."""
Records = npt.NDArray[Any]
"""By slot, the records, of SESSION4_DTYPE or SESSION6_DTYPE."""

_MONOTONIC_COARSE: Final = 6  # linux/time.h; Python does not name it


def now_tick() -> int:
    """Return the tick that the program writes into stamps now."""
    return time.clock_gettime_ns(_MONOTONIC_COARSE) >> TICK_SHIFT


class SessionMap:
    """The tags and the records, by slot. `sessions6` is None without IPv6 services."""

    def __init__(self, tags: Tags, sessions4: Records, sessions6: Records | None, memory: list[mmap.mmap]) -> None:
        self.tags = tags
        self.sessions4 = sessions4
        self.sessions6 = sessions6
        self._memory = memory

    @classmethod
    def open(cls, pinned: Mapping[str, PinnedMap], shape: NatShape) -> Self:
        """Map the open maps into memory."""
        memory = [_mapped(pinned[name]) for name in ("session_tags", "sessions4")]
        tags, sessions4 = np.frombuffer(memory[0], np.uint64), np.frombuffer(memory[1], SESSION4_DTYPE)
        sessions6 = None
        if shape.ipv6:
            memory.append(_mapped(pinned["sessions6"]))
            sessions6 = np.frombuffer(memory[2], SESSION6_DTYPE)
        return cls(tags, sessions4, sessions6, memory)

    def __len__(self) -> int:
        return len(self.tags)

    def read(self, slot: int, ipv6: bool = False) -> Session:
        """Return the record of a slot, as it is just now."""
        return Session.unpack(self._records(ipv6)[slot].tobytes())

    def write(self, slot: int, session: Session) -> None:
        """Write a record. The slot's tag must be BUSY, by the caller."""
        records = self._records(session.client.version == 6)
        # As bytes: numpy copies structured values by their fields, and leaves out what these do not cover.
        records.view(np.uint8).reshape(len(records), -1)[slot] = np.frombuffer(session.pack(), np.uint8)

    def close(self) -> None:
        """Unmap them. Views that the caller still has keep the memory mapped until they are gone."""
        self.tags, self.sessions4, self.sessions6 = np.empty(0, np.uint64), np.empty(0, SESSION4_DTYPE), None
        for one in self._memory:
            with contextlib.suppress(BufferError):
                one.close()

    def _records(self, ipv6: bool) -> Records:
        if not ipv6:
            return self.sessions4
        if self.sessions6 is None:
            raise ValueError("there are no sessions of IPv6: no service is")
        return self.sessions6


def _mapped(one: PinnedMap) -> mmap.mmap:
    return mmap.mmap(one.fd, one.spec.entries * one.spec.value_size)
