# SPDX-License-Identifier: Apache-2.0
"""Which packets are sampled, and reading them. While none are, the program spends one test on it."""

from bpf.layout.conf import ConfFlag
from bpf.layout.sampling import SAMPLE_STRUCT, Sample, SampleFilter
from bpf.maps.conf_map import ConfMap
from bpf.maps.pinned_map import PinnedMap
from bpf.maps.ring_reader import RingReader


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

    def open_reader(self) -> RingReader[Sample]:
        """Open the reading end of the ring buffer; one reader at a time."""
        return RingReader(self._samples.fd, "sampled packets", SAMPLE_STRUCT.size, Sample.unpack)
