# SPDX-License-Identifier: Apache-2.0
"""What the program remembers of fragmented packets: `struct fragment_key` and `struct first_fragment`."""

from dataclasses import dataclass
from typing import Final

from bpf.layout.address import Address, pack_address
from bpf.layout.c_struct import CStruct

FRAGMENT_KEY_STRUCT: Final = CStruct(
    "fragment_key",
    (("client", "16s"), ("vip", "16s"), ("id", "4s"), ("protocol", "B"), ("family", "B"), ("pad", "2x")),
)
FIRST_FRAGMENT_STRUCT: Final = CStruct(
    "first_fragment", (("until_ns", "Q"), ("client_port", "2s"), ("vip_port", "2s"), ("opens", "B"), ("pad", "3x"))
)


@dataclass(frozen=True)
class FragmentKey:
    """Which packet a fragment is of. `id` has 16 bits in IPv4 and 32 in IPv6."""

    client: Address
    vip: Address
    id: int
    protocol: int

    def pack(self) -> bytes:
        """Encode as `struct fragment_key`."""
        family = self.vip.version
        number = self.id.to_bytes(2 if family == 4 else 4, "big").ljust(4, b"\0")
        ends = pack_address(self.client), pack_address(self.vip)
        return FRAGMENT_KEY_STRUCT.codec.pack(*ends, number, self.protocol, family)


@dataclass(frozen=True)
class FirstFragment:
    """What the first fragment of a packet shows of its flow; it counts until then (CLOCK_MONOTONIC)."""

    until_ns: int
    client_port: int
    vip_port: int
    opens: bool

    def pack(self) -> bytes:
        """Encode as `struct first_fragment`."""
        ports = (port.to_bytes(2, "big") for port in (self.client_port, self.vip_port))
        return FIRST_FRAGMENT_STRUCT.codec.pack(self.until_ns, *ports, self.opens)
