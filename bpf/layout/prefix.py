# SPDX-License-Identifier: Apache-2.0
"""A key of the prefix maps: `struct prefix`. The family comes first and counts for 32 bits of the length."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from bpf.layout.address import Network, pack_address, unpack_address
from bpf.layout.c_struct import CStruct

PREFIX_STRUCT: Final = CStruct("prefix", (("length", "I"), ("family", "I"), ("address", "16s")))


def pack_prefix(prefix: Network) -> bytes:
    """Encode as `struct prefix`."""
    return PREFIX_STRUCT.codec.pack(32 + prefix.prefixlen, prefix.version, pack_address(prefix.network_address))


def pack_first4(prefixes: Iterable[Network]) -> bytes:
    """Encode the largest IPv4 prefix as the entry of `node_prefix4`: address, mask. 0.0.0.0/0 has no mask: none."""
    found = [prefix for prefix in prefixes if isinstance(prefix, IPv4Network) and prefix.prefixlen]
    if not found:
        return bytes(8)
    first = min(found, key=lambda prefix: (prefix.prefixlen, prefix))
    return first.network_address.packed + first.netmask.packed


def unpack_prefix(data: bytes) -> Network:
    """Decode `struct prefix`."""
    length, family, address = PREFIX_STRUCT.codec.unpack(data)
    network = unpack_address(family, address)
    return IPv4Network((network, length - 32)) if family == 4 else IPv6Network((network, length - 32))
