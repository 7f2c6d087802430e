# SPDX-License-Identifier: Apache-2.0
"""What the NAT program gives new sessions: how services balance, the backends, and the next hops.

nat_layout.h describes the structs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from bpf.layout.address import Address, pack_address, unpack_address
from bpf.layout.c_struct import CStruct
from bpf.layout.service import Affinity

BACKENDS: Final = 4096
"""Entries of the backends' map; index 0 means none."""
CHOICES: Final = 256
"""Entries of a service's table of choices."""
NAT_HOPS: Final = BACKENDS + 2
"""Entries of the next hops' map; index 0 means none."""


class Balance(IntEnum):
    """How a new session's backend is chosen."""

    HASH = 0
    ROUND_ROBIN = 1
    LEAST_CONNECTIONS = 2
    WEIGHTED = 3


NAT_SERVICE_STRUCT: Final = CStruct(
    "nat_service", (("balance", "B"), ("affinity", "B"), ("choices", "H"), ("pad", "4x"), ("turn", "Q"))
)
NAT_CHOICES_STRUCT: Final = CStruct("nat_choices", (("choice", f"{2 * CHOICES}H"),))
BACKEND_STRUCT: Final = CStruct(
    "backend",
    (
        ("address", "16s"),
        ("port", "2s"),
        ("family", "B"),
        ("flags", "B"),
        ("hop", "H"),
        ("pad", "2x"),
        ("weight", "I"),
    ),
)
BACKEND_LOAD_STRUCT: Final = CStruct("backend_load", (("active", "Q"), ("chosen", "Q")))
NAT_HOP_STRUCT: Final = CStruct(
    "nat_hop", (("mac", "6s"), ("vlan", "H"), ("ifindex", "I"), ("source", "6s"), ("mtu", "H"), ("known", "I"))
)


@dataclass(frozen=True)
class Choice:
    """A backend, by its index, that new sessions may get."""

    backend: int
    weight: int = 1


@dataclass(frozen=True)
class NatServiceEntry:
    """How a service's new sessions are balanced; `affinity`: what of the client decides with Balance.HASH.

    `choices` are the backends that take new sessions, CHOICES at most: with HASH one is taken by the hash, with
    LEAST_CONNECTIONS the least loaded by its weight, else the next in turn. So a backend may be in it several times.
    """

    balance: Balance = Balance.HASH
    affinity: Affinity = Affinity.FIVE_TUPLE
    choices: Sequence[Choice] = ()

    def pack(self, turn: int = 0) -> bytes:
        """Encode as `struct nat_service`."""
        return NAT_SERVICE_STRUCT.codec.pack(self.balance, self.affinity, len(self.choices), turn)

    def pack_choices(self) -> bytes:
        """Encode as `struct nat_choices`."""
        if len(self.choices) > CHOICES:
            raise ValueError(f"{len(self.choices)} choices given, {CHOICES} are the most")
        words = [word for choice in self.choices for word in (choice.backend, choice.weight)]
        return NAT_CHOICES_STRUCT.codec.pack(*words, *bytes(2 * CHOICES - len(words)))

    @classmethod
    def unpack(cls, service: bytes, choices: bytes) -> "NatServiceEntry":
        """Decode both structs."""
        balance, affinity, count, _turn = NAT_SERVICE_STRUCT.codec.unpack(service)
        words = NAT_CHOICES_STRUCT.codec.unpack(choices)[: 2 * count]
        pairs = zip(words[::2], words[1::2], strict=True)
        return cls(Balance(balance), Affinity(affinity), tuple(Choice(*pair) for pair in pairs))


@dataclass(frozen=True)
class BackendEntry:
    """A backend: where it is, and by which next hop (index) it is reached."""

    address: Address
    port: int
    hop: int
    weight: int = 100

    def pack(self) -> bytes:
        """Encode as `struct backend`."""
        return BACKEND_STRUCT.codec.pack(
            pack_address(self.address), self.port.to_bytes(2, "big"), self.address.version, 0, self.hop, self.weight
        )

    @classmethod
    def unpack(cls, data: bytes) -> "BackendEntry | None":
        """Decode `struct backend`; None if the place is free."""
        address, port, family, _flags, hop, weight = BACKEND_STRUCT.codec.unpack(data)
        return cls(unpack_address(family, address), int.from_bytes(port, "big"), hop, weight) if family else None


@dataclass(frozen=True)
class BackendLoad:
    """A backend's sessions on this node: those that are open, and all that were made."""

    active: int = 0
    chosen: int = 0

    @classmethod
    def unpack(cls, data: bytes) -> "BackendLoad":
        """Decode `struct backend_load`."""
        return cls(*BACKEND_LOAD_STRUCT.codec.unpack(data))


@dataclass(frozen=True)
class NatHop:
    """A next hop. `mac` is None until one was known; `ifindex` 0 and `source` None: the interface of arrival.

    `vlan` (0: none) is the tag of frames; `mtu` is the route's, in bytes of an IP packet.
    """

    mac: bytes | None
    ifindex: int = 0
    source: bytes | None = None
    vlan: int = 0
    mtu: int = 1500

    def pack(self) -> bytes:
        """Encode as `struct nat_hop`."""
        return NAT_HOP_STRUCT.codec.pack(
            self.mac or bytes(6), self.vlan, self.ifindex, self.source or bytes(6), min(self.mtu, 0xFFFF),
            self.mac is not None,
        )  # fmt: skip

    @classmethod
    def unpack(cls, data: bytes) -> "NatHop | None":
        """Decode `struct nat_hop`; None if the place is free."""
        mac, vlan, ifindex, source, mtu, known = NAT_HOP_STRUCT.codec.unpack(data)
        return cls(mac if known else None, ifindex, source if any(source) else None, vlan, mtu) if mtu else None
