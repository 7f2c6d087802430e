# SPDX-License-Identifier: Apache-2.0
"""What the NAT program is given: its conf, how services balance, the backends, the next hops, and rows being pulled."""

import contextlib
import mmap
import threading
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from bpf.errors import BpfError
from bpf.layout.limits import SLOTS
from bpf.layout.nat import NAT_ROWS, NatConf, NatFlag, has_flag, unpack_conf, with_flag
from bpf.layout.nat_backend import (
    BACKENDS,
    NAT_HOPS,
    NAT_SERVICE_STRUCT,
    BackendEntry,
    BackendLoad,
    NatHop,
    NatServiceEntry,
)
from bpf.layout.session import EVENT_STRUCT
from bpf.maps.pinned_map import PinnedMap
from bpf.maps.ring_reader import RingReader

_LOAD_WORDS = 2


class NatMaps:
    """The maps of NAT but the sessions.

    `loads`: by backend, the words `active` and `chosen`, which the program changes at any time: change them by
    bpf/kernel/atomic.py alone. `pulls`: by row, until when (CLOCK_MONOTONIC, ns) other nodes may still hand over its
    sessions; 0: no longer.
    """

    def __init__(self, pinned: Mapping[str, PinnedMap]) -> None:
        names = ("nat_confs", "nat_services", "nat_choices", "backends", "nat_hops")
        self._confs, self._services, self._choices, self._backends, self._hops = (pinned[name] for name in names)
        self._events = pinned["session_events"]
        self._lock = threading.Lock()
        """Held while the conf is changed: sessions are copied in a thread."""
        self._memory = [
            mmap.mmap(pinned["backend_loads"].fd, BACKENDS * _LOAD_WORDS * 8),
            mmap.mmap(pinned["nat_pulls"].fd, NAT_ROWS * 8),
        ]
        loads, pulls = (np.frombuffer(one, np.uint64) for one in self._memory)
        self.loads: npt.NDArray[np.uint64] = loads.reshape(BACKENDS, _LOAD_WORDS)
        self.pulls: npt.NDArray[np.uint64] = pulls

    def close(self) -> None:
        """Unmap them. Views that the caller still has keep the memory mapped until they are gone."""
        self.loads = self.pulls = np.empty(0, np.uint64)
        for one in self._memory:
            with contextlib.suppress(BufferError):
                one.close()

    def write_conf(self, conf: NatConf) -> None:
        """Write the conf. Whether sessions are watched, or are being copied, stays as it is."""
        with self._lock:
            before, data = self._confs.entry(0), conf.pack()
            for flag in NatFlag:
                data = with_flag(data, flag, has_flag(before, flag))
            self._confs.set_entry(0, data)

    def set_watched(self, on: bool) -> None:
        """Have the program write the changes of sessions to the ring buffer, or no more."""
        self._set_flag(NatFlag.WATCHED, on)

    def set_moving(self, on: bool) -> None:
        """Have the program make no session and call none unknown, while sessions are copied; or no more."""
        self._set_flag(NatFlag.MOVING, on)

    @property
    def is_moving(self) -> bool:
        """Whether the program is to do so."""
        return has_flag(self._confs.entry(0), NatFlag.MOVING)

    def _set_flag(self, flag: NatFlag, on: bool) -> None:
        with self._lock:
            self._confs.set_entry(0, with_flag(self._confs.entry(0), flag, on))

    def open_events(self) -> RingReader[bytes]:
        """Open the reading end of the ring buffer of changes, `EVENT_DTYPE` each; one reader at a time."""
        return RingReader(self._events.fd, "changes of sessions", EVENT_STRUCT.size, bytes)

    def conf(self) -> NatConf | None:
        """Return what `write_conf` wrote, with the pools' addresses that are used; None before that."""
        return unpack_conf(self._confs.entry(0))

    def write_service(self, slot: int, service: NatServiceEntry) -> None:
        """Write how the service of that slot (1 to SLOTS - 1) balances. The choices come first when there are more."""
        if not 0 < slot < SLOTS:
            raise BpfError(f"service slot {slot} is not in 1-{SLOTS - 1}")
        before = self._services.entry(slot)
        *_, count, turn = NAT_SERVICE_STRUCT.codec.unpack(before)
        if len(service.choices) >= count:
            self._choices.set_entry(slot, service.pack_choices())
        self._services.set_entry(slot, service.pack(turn))
        if len(service.choices) < count:
            self._choices.set_entry(slot, service.pack_choices())

    def service(self, slot: int) -> NatServiceEntry:
        """Return what `write_service` wrote."""
        return NatServiceEntry.unpack(self._services.entry(slot), self._choices.entry(slot))

    def write_backend(self, index: int, backend: BackendEntry | None) -> None:
        """Write a backend, or clear its place: only once no session has the index any more."""
        if not 0 < index < BACKENDS:
            raise BpfError(f"backend index {index} is not in 1-{BACKENDS - 1}: too many backends")
        if backend is None:
            self._backends.clear_entry(index)
        else:
            self._backends.set_entry(index, backend.pack())

    def backends(self) -> dict[int, BackendEntry]:
        """Return all backends by index."""
        entries = {index: BackendEntry.unpack(self._backends.entry(index)) for index in range(1, BACKENDS)}
        return {index: entry for index, entry in entries.items() if entry}

    def load(self, index: int) -> BackendLoad:
        """Return a backend's sessions on this node."""
        active, chosen = self.loads[index].tolist()
        return BackendLoad(active, chosen)

    def write_hop(self, index: int, hop: NatHop | None) -> None:
        """Write a next hop, or clear its place."""
        if not 0 < index < NAT_HOPS:
            raise BpfError(f"next-hop index {index} is not in 1-{NAT_HOPS - 1}")
        if hop is None:
            self._hops.clear_entry(index)
        else:
            self._hops.set_entry(index, hop.pack())

    def hop(self, index: int) -> NatHop | None:
        """Return a next hop; None if the place is free."""
        return NatHop.unpack(self._hops.entry(index))
