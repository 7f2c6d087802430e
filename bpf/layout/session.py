# SPDX-License-Identifier: Apache-2.0
"""A NAT session: its tag, one 64-bit number, and its record, `struct session4` or `struct session6`.

nat_layout.h describes both. Stamps are ticks of CLOCK_MONOTONIC_COARSE, which mean nothing on another machine.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

from bpf.layout.address import Address, unpack_address
from bpf.layout.c_struct import CStruct

WAYS: Final = 8
"""Slots of a bucket."""
OWNER_WAYS: Final = 6
"""The first ways of a bucket, in which the row's owner makes sessions; any other node uses the others."""
TICK_SHIFT: Final = 30
"""A tick is 2 ** TICK_SHIFT ns."""

SESSION_STRUCT: Final = CStruct(
    "session",
    (
        ("client_port", "2s"),
        ("vip_port", "2s"),
        ("backend_port", "2s"),
        ("nat_port", "2s"),
        ("protocol", "B"),
        ("family", "B"),
        ("backend_index", "H"),
        ("service_slot", "H"),
        ("bucket_bits", "B"),
        ("pad", "x"),
        ("created", "I"),
        ("sums", "4H"),
        ("client_ack", "I"),
        ("backend_ack", "I"),
        ("spare", "12x"),
    ),
)
SESSION_ENDS: Final = ("client", "vip", "backend", "nat")
SESSION4_STRUCT: Final = CStruct(
    "session4", (*((end, "4s") for end in SESSION_ENDS), ("rest", f"{SESSION_STRUCT.size}s"))
)
SESSION6_STRUCT: Final = CStruct(
    "session6", (*((end, "16s") for end in SESSION_ENDS), ("rest", f"{SESSION_STRUCT.size}s"), ("spare", "16x"))
)
BUCKET_STRUCT: Final = CStruct("session_bucket", (("tag", f"{WAYS}Q"),))
EVENT_STRUCT: Final = CStruct("session_event", (("slot", "I"), ("pad", "4x"), ("before", "Q"), ("after", "Q")))


class SessionState(IntEnum):
    """The states of a session; nat_layout.h defines each."""

    FREE = 0
    SYN = 1
    EST = 2
    FIN = 3
    CLOSED = 4
    BUSY = 5
    RESERVED = 6


class TagFlag(IntFlag):
    """The flags of a tag; nat_layout.h defines each."""

    CLIENT_FIN = 1
    BACKEND_FIN = 2
    SYNACK_SEEN = 4
    COPIED = 8
    CLOSED_BY_BACKEND = 16
    RESET = 32
    IPV6 = 64
    UDP = 128


@dataclass(frozen=True, slots=True)
class Tag:
    """A slot's tag. `stamp` is the tick of the last packet. A free slot's has a stamp alone: when it was left, or 0."""

    fingerprint: int
    state: SessionState
    flags: TagFlag
    stamp: int

    def pack(self) -> int:
        """Encode as the 64-bit number."""
        return self.fingerprint << 48 | self.state << 40 | self.flags << 32 | self.stamp

    @classmethod
    def unpack(cls, tag: int) -> "Tag":
        """Decode the 64-bit number."""
        return cls(tag >> 48, SessionState(tag >> 40 & 0xFF), TagFlag(tag >> 32 & 0xFF), tag & 0xFFFF_FFFF)


@dataclass(frozen=True, slots=True)
class Session:
    """A session's record: both connections that it joins.

    `backend_index` and `created` (a tick) are those of one node. `client_ack` and `backend_ack` are the last
    acknowledgment numbers of either end. `bucket_bits` is the logarithm of its row's buckets when it began.
    """

    protocol: int
    client: Address
    client_port: int
    vip: Address
    vip_port: int
    backend: Address
    backend_port: int
    nat: Address
    nat_port: int
    backend_index: int
    service_slot: int
    created: int = 0
    client_ack: int = 0
    backend_ack: int = 0
    bucket_bits: int = 1

    def pack(self) -> bytes:
        """Encode as `struct session4` or `struct session6`, by the client's family, with the checksum differences."""
        ports = [
            port.to_bytes(2, "big") for port in (self.client_port, self.vip_port, self.backend_port, self.nat_port)
        ]
        rest = SESSION_STRUCT.codec.pack(
            *ports, self.protocol, self.client.version, self.backend_index, self.service_slot, self.bucket_bits,
            self.created,             *self.sums(), self.client_ack, self.backend_ack,
        )  # fmt: skip
        ends = [end.packed for end in (self.client, self.vip, self.backend, self.nat)]
        return (SESSION4_STRUCT if self.client.version == 4 else SESSION6_STRUCT).codec.pack(*ends, rest)

    @classmethod
    def unpack(cls, data: bytes) -> "Session":
        """Decode either struct, by its size."""
        family = 4 if len(data) == SESSION4_STRUCT.size else 6
        *ends, rest = (SESSION4_STRUCT if family == 4 else SESSION6_STRUCT).codec.unpack(data)
        client, vip, backend, nat = (unpack_address(family, end) for end in ends)
        fields = SESSION_STRUCT.codec.unpack(rest)
        client_port, vip_port, backend_port, nat_port = (int.from_bytes(port, "big") for port in fields[:4])
        protocol, _family, index, slot, bits, created, *_sums, client_ack, backend_ack = fields[4:]
        return cls(
            protocol, client, client_port, vip, vip_port, backend, backend_port, nat, nat_port, index, slot, created,
            client_ack, backend_ack, bits,
        )  # fmt: skip

    def sums(self) -> tuple[int, int, int, int]:
        """Return the checksum differences: to the backend in IP and above it, to the client in IP and above it.

        Added to a checksum's complement, they replace the addresses and ports (RFC 1624), and in IPv4's header a TTL
        that is one less. IPv6 has no checksum of its own: 0.
        """
        to_backend = _difference(self.client.packed + self.vip.packed, self.nat.packed + self.backend.packed)
        to_client = _difference(self.backend.packed + self.nat.packed, self.vip.packed + self.client.packed)
        before, after = _ports(self.client_port, self.vip_port), _ports(self.nat_port, self.backend_port)
        four = self.client.version == 4
        return (
            _fold(to_backend + _TTL_LESS) if four else 0,
            _fold(to_backend + _difference(before, after)),
            _fold(to_client + _TTL_LESS) if four else 0,
            _fold(to_client + _difference(after[2:] + after[:2], before[2:] + before[:2])),
        )


_TTL_LESS: Final = 0xFFFE
"""One less in the low byte of a little-endian word."""


def _ports(source: int, destination: int) -> bytes:
    return source.to_bytes(2, "big") + destination.to_bytes(2, "big")


def _difference(before: bytes, after: bytes) -> int:
    """Return the sum of the words of `after` and of the complements of those of `before`, little-endian."""
    words = Struct(f"<{len(before) // 2}H")
    old: tuple[int, ...] = words.unpack(before)
    new: tuple[int, ...] = words.unpack(after)
    return sum(0xFFFF - word for word in old) + sum(new)


def _fold(total: int) -> int:
    """Fold a sum's carries into 16 bits."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
