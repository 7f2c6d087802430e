# SPDX-License-Identifier: Apache-2.0
"""Sampled packets: the filter that selects them and what is kept of each, `struct sampling` and `struct sample`."""

from dataclasses import dataclass
from typing import Final

from bpf.layout.address import Network, pack_address
from bpf.layout.c_struct import CStruct
from bpf.layout.counter import Counter
from bpf.layout.limits import SAMPLE_BYTES

SAMPLING_STRUCT: Final = CStruct(
    "sampling",
    (("every", "I"), ("slot", "I"), ("event", "I"), ("family", "I"), ("client", "16s"), ("mask", "16s")),
)
SAMPLE_STRUCT: Final = CStruct(
    "sample",
    (
        ("time_ns", "Q"),
        ("ifindex", "I"),
        ("length", "I"),
        ("slot", "H"),
        ("event", "H"),
        ("prev", "H"),
        ("hop", "B"),
        ("kept", "B"),
        ("bytes", f"{SAMPLE_BYTES}s"),
    ),
)
_ANY: Final = 0xFFFF_FFFF


@dataclass(frozen=True)
class SampleFilter:
    """Which packets are sampled: one in `every` of those that match all other fields; None matches any.

    `slot` is a service's (0: dropped packets that belong to none), `event` what became of the packet, `client` the
    prefix of its client's address. Packets that pass because they are for no service are never sampled.
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
        return SAMPLING_STRUCT.codec.pack(
            self.every,
            _ANY if self.slot is None else self.slot,
            _ANY if self.event is None else self.event,
            client.version if client else 0,
            pack_address(client.network_address if client else None),
            pack_address(client.netmask if client else None),
        )


@dataclass(frozen=True)
class Sample:
    """One packet as it left the program.

    `time_ns` is CLOCK_MONOTONIC. `length` is the whole frame's and `head` the frame's beginning. `hop` and `prev`
    (a tag) are those of the packet's marker.
    """

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
        time_ns, ifindex, length, slot, event, prev, hop, kept, head = SAMPLE_STRUCT.codec.unpack(data)
        return cls(time_ns, ifindex, length, slot, Counter(event), prev, hop, head[:kept])
