# SPDX-License-Identifier: Apache-2.0
"""IP addresses as the maps hold them: four 32-bit words in network order; an IPv4 address is the first of them."""

import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

GOLDEN: Final = 2_654_435_769
"""2^32 divided by the golden ratio, odd: the factor of the multiplicative hashes of a VIP."""
WORD: Final = 0xFFFF_FFFF


def pack_address(address: Address | None) -> bytes:
    """Encode an address in 16 bytes, an IPv4 address in the first four; zeros for None."""
    return address.packed.ljust(16, b"\0") if address else bytes(16)


def unpack_address(family: int, data: bytes) -> Address:
    """Decode 16 bytes of family 4 or 6."""
    return IPv4Address(data[:4]) if family == 4 else IPv6Address(data)


def address_words(address: Address) -> tuple[int, ...]:
    """Return an address's 32-bit words, one or four, as the little-endian program loads them."""
    return struct.unpack(f"<{len(address.packed) // 4}I", address.packed)


def fold_address(address: Address) -> int:
    """Return the XOR of an address's 32-bit words."""
    folded = 0
    for word in address_words(address):
        folded ^= word
    return folded
