# SPDX-License-Identifier: Apache-2.0
"""The row of a flow, as flow.h computes it: for `explain`, and to say what a packet test should see."""

from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import Final

_WORD: Final = 0xFFFF_FFFF


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> (32 - bits)) & _WORD


def mix(a: int, b: int, c: int) -> int:
    """Mix three words into one: the final mix of Jenkins' lookup3 (the kernel's jhash.h)."""
    c = ((c ^ b) - _rotate(b, 14)) & _WORD
    a = ((a ^ c) - _rotate(c, 11)) & _WORD
    b = ((b ^ a) - _rotate(a, 25)) & _WORD
    c = ((c ^ b) - _rotate(b, 16)) & _WORD
    a = ((a ^ c) - _rotate(c, 4)) & _WORD
    b = ((b ^ a) - _rotate(a, 14)) & _WORD
    return ((c ^ b) - _rotate(b, 24)) & _WORD


def flow_hash(hash_key: tuple[int, int], client: IPv4Address, client_port: int, vip: IPv4Address, vip_port: int) -> int:
    """Return the 32-bit keyed hash of a flow; its low bits are the row.

    Words are taken as the little-endian program loads them from the packet.
    """
    key_0, key_1 = hash_key
    ports = int.from_bytes(client_port.to_bytes(2, "big") + vip_port.to_bytes(2, "big"), "little")
    return mix(
        (int.from_bytes(client.packed, "little") + key_0) & _WORD,
        (int.from_bytes(vip.packed, "little") + key_1) & _WORD,
        (ports + key_0) & _WORD,
    )


def row_of(
    hash_key: tuple[int, int], rows: int, client: IPv4Address, client_port: int, vip: IPv4Address, vip_port: int
) -> int:
    """Return the row of a flow in a table of `rows` (a power of two)."""
    return flow_hash(hash_key, client, client_port, vip, vip_port) & (rows - 1)


def vip_filter(vips: Iterable[IPv4Address]) -> int:
    """Return conf's 64-bit filter: one bit for each VIP, so that most other addresses are told apart at once."""
    bits = 0
    for vip in vips:
        bits |= 1 << ((int.from_bytes(vip.packed, "little") * 2_654_435_769 & _WORD) >> 26)
    return bits
