# SPDX-License-Identifier: Apache-2.0
"""Which packets are sampled, and reading them. While none are, the program spends one test on it."""

import ctypes as ct
from typing import Final

from bpf.errors import BpfError
from bpf.kernel.libbpf import library
from bpf.layout.conf import ConfFlag
from bpf.layout.sampling import SAMPLE_STRUCT, Sample, SampleFilter
from bpf.maps.conf_map import ConfMap
from bpf.maps.pinned_map import PinnedMap

_CALLBACK: Final = ct.CFUNCTYPE(ct.c_int, ct.c_void_p, ct.c_void_p, ct.c_size_t)


class SamplingMap:
    """The filter, conf's flag that there is one, and the ring buffer of samples."""

    def __init__(self, sampling: PinnedMap, samples: PinnedMap, conf: ConfMap) -> None:
        self._sampling = sampling
        self._samples = samples
        self._conf = conf

    def write(self, wanted: SampleFilter | None) -> None:
        """Sample the packets that match a filter; with None, no packets."""
        if wanted:
            self._sampling.set_entry(0, wanted.pack())
        self._conf.set_flag(ConfFlag.SAMPLE, wanted is not None)

    def open_reader(self) -> "SampleReader":
        """Open the reading end of the ring buffer; one reader at a time."""
        return SampleReader(self._samples.fd)


class SampleReader:
    """The reading end of the ring buffer: `fileno` is readable when there are samples, `read` takes them out."""

    def __init__(self, fd: int) -> None:
        self._found: list[Sample] = []
        self._callback = _CALLBACK(self._take)  # must live as long as the ring
        self._lib = library()
        self._lib.ring_buffer__new.restype = ct.c_void_p
        self._ring = ct.c_void_p(self._lib.ring_buffer__new(fd, self._callback, None, None))
        if not self._ring:
            raise BpfError("cannot open the ring buffer of sampled packets")

    def fileno(self) -> int:
        """Return a descriptor for select() and the like."""
        return int(self._lib.ring_buffer__epoll_fd(self._ring))

    def read(self) -> list[Sample]:
        """Return the samples since the last call."""
        self._found = []
        self._lib.ring_buffer__consume(self._ring)
        return self._found

    def close(self) -> None:
        """Free the reading end; sampling goes on."""
        self._lib.ring_buffer__free(self._ring)
        self._ring = ct.c_void_p()

    def _take(self, _: int, data: int, size: int) -> int:
        self._found.append(Sample.unpack(ct.string_at(data, SAMPLE_STRUCT.size)))
        return 0
