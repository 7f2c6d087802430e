# SPDX-License-Identifier: Apache-2.0
"""Sampled packets: which are wanted, and reading them. What the data path spends on it while nobody asks is one test.

Owns the filter's and the samples' encoding, and the reading end of the ring buffer.
"""

import ctypes as ct
from dataclasses import dataclass
from typing import Final

from bpf.errors import BpfError
from bpf.kernel import objects as kernel
from bpf.layout import structs as layout
from bpf.layout.structs import Counter, Network

_ANY: Final = 0xFFFF_FFFF
_CALLBACK: Final = ct.CFUNCTYPE(ct.c_int, ct.c_void_p, ct.c_void_p, ct.c_size_t)


@dataclass(frozen=True)
class Filter:
    """Which packets are sampled: one in `every` of those that match all the rest; None matches any.

    `slot` is a service's (0: what was dropped and belongs to none), `event` what became of the packet, `client` whose
    it is. What passes because it is for no service is never sampled.
    """

    every: int = 1
    slot: int | None = None
    event: Counter | None = None
    client: Network | None = None

    def pack(self) -> bytes:
        """Encode as `struct sampling`."""
        if self.every < 1:
            raise ValueError(f"every: {self.every} is below 1")
        client = self.client
        return layout.struct_of("sampling").codec.pack(
            self.every,
            _ANY if self.slot is None else self.slot,
            _ANY if self.event is None else self.event,
            client.version if client else 0,
            layout.address_words(client.network_address if client else None),
            layout.address_words(client.netmask if client else None),
        )


@dataclass(frozen=True)
class Sample:
    """One packet as it left the program. `time_ns` is CLOCK_MONOTONIC; `length` that of the whole frame, of which
    `head` is the beginning; `hop` and `prev` (a tag) say how it came."""

    time_ns: int
    ifindex: int
    length: int
    slot: int
    event: Counter
    prev: int
    hop: int
    head: bytes

    @classmethod
    def unpack(cls, data: bytes) -> "Sample":
        """Decode `struct sample`."""
        time_ns, ifindex, length, slot, event, prev, hop, kept, head = layout.struct_of("sample").codec.unpack(data)
        return cls(time_ns, ifindex, length, slot, Counter(event), prev, hop, head[:kept])


class Reader:
    """The reading end of the ring buffer: `fileno` is readable when there are samples, `read` takes them out."""

    def __init__(self, fd: int) -> None:
        self._found: list[Sample] = []
        self._callback = _CALLBACK(self._take)  # must live as long as the ring
        self._lib = kernel.library()
        self._lib.ring_buffer__new.restype = ct.c_void_p
        self._ring = ct.c_void_p(self._lib.ring_buffer__new(fd, self._callback, None, None))
        if not self._ring:
            raise BpfError("cannot open the ring buffer of sampled packets")

    def fileno(self) -> int:
        """A descriptor for select() and its like."""
        return int(self._lib.ring_buffer__epoll_fd(self._ring))

    def read(self) -> list[Sample]:
        """Return what was sampled since the last call; empty if nothing was."""
        self._found = []
        self._lib.ring_buffer__consume(self._ring)
        return self._found

    def close(self) -> None:
        """Free it. Does not end the sampling."""
        self._lib.ring_buffer__free(self._ring)
        self._ring = ct.c_void_p()

    def _take(self, _: int, data: int, size: int) -> int:
        self._found.append(Sample.unpack(ct.string_at(data, layout.size_of("sample"))))
        return 0
