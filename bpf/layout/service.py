# SPDX-License-Identifier: Apache-2.0
"""An entry of the services' map: `struct service_key` and `struct service`."""

from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from typing import Final

from bpf.layout.address import Address, pack_address, unpack_address
from bpf.layout.c_struct import CStruct

SERVICE_KEY_STRUCT: Final = CStruct("service_key", (("vip", "16s"), ("port", "2s"), ("protocol", "B"), ("family", "B")))
SERVICE_STRUCT: Final = CStruct(
    "service", (("slot", "I"), ("up", "B"), ("affinity", "B"), ("forward", "B"), ("flags", "B"))
)


class Protocol(IntEnum):
    """Transport protocols of a service, by IANA number."""

    TCP = 6
    UDP = 17


class Affinity(IntEnum):
    """What the flow hash covers: client address and port, VIP and its port; or without the client's port; or only the
    two addresses."""

    FIVE_TUPLE = 0
    THREE_TUPLE = 1
    TWO_TUPLE = 2


class Forward(IntEnum):
    """How a packet reaches the next node: by rewriting MACs, or in a tunnel (GUE is variant 1, UDP port 6080)."""

    L2 = 0
    IPIP = 1
    GUE = 2


class ServiceFlag(IntFlag):
    """The flags of an entry; lb.h defines each."""

    PORTS_ONLY = 1
    FRAGMENTS = 2
    DROP_NO_MEMBER = 4
    NAT = 8


@dataclass(frozen=True)
class ServiceKey:
    """VIP, protocol and port of a service. Port 0 is any port; `protocol` None (with port 0) is the VIP itself."""

    vip: Address
    protocol: Protocol | None
    port: int

    def pack(self) -> bytes:
        """Encode as `struct service_key`."""
        port = self.port.to_bytes(2, "big")
        return SERVICE_KEY_STRUCT.codec.pack(pack_address(self.vip), port, self.protocol or 0, self.vip.version)

    def any_port(self) -> "ServiceKey":
        """Return the key of all ports of the same VIP and protocol."""
        return replace(self, port=0)

    def of_vip(self) -> "ServiceKey":
        """Return the key of the VIP."""
        return ServiceKey(self.vip, None, 0)

    @classmethod
    def unpack(cls, data: bytes) -> "ServiceKey":
        """Decode `struct service_key`."""
        vip, port, protocol, family = SERVICE_KEY_STRUCT.codec.unpack(data)
        return cls(unpack_address(family, vip), Protocol(protocol) if protocol else None, int.from_bytes(port, "big"))


@dataclass(frozen=True)
class ServiceEntry:
    """Where a service's table and counters are (`slot`, 1 to SLOTS - 1) and how this node serves it.

    `up`: this node takes new connections that are forwarded to it. `drop_no_member`: packets of an empty row are
    dropped (`when_no_member: drop`), not passed to the kernel. `nat`: of mode nat, whose rows are those of NAT.
    """

    slot: int
    up: bool
    affinity: Affinity = Affinity.FIVE_TUPLE
    forward: Forward = Forward.L2
    drop_no_member: bool = False
    nat: bool = False

    def pack(self, flags: int = 0) -> bytes:
        """Encode as `struct service`; `flags` are those that follow from other services."""
        if self.drop_no_member:
            flags |= ServiceFlag.DROP_NO_MEMBER
        if self.nat:
            flags |= ServiceFlag.NAT
        return SERVICE_STRUCT.codec.pack(self.slot, self.up, self.affinity, self.forward, flags)

    @classmethod
    def unpack(cls, data: bytes) -> "ServiceEntry | None":
        """Decode `struct service`; None if the entry is no service of its own."""
        slot, up, affinity, forward, flags = SERVICE_STRUCT.codec.unpack(data)
        if flags & ServiceFlag.PORTS_ONLY:
            return None
        drop = bool(flags & ServiceFlag.DROP_NO_MEMBER)
        return cls(slot, bool(up), Affinity(affinity), Forward(forward), drop, bool(flags & ServiceFlag.NAT))
