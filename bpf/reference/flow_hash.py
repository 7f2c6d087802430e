# SPDX-License-Identifier: Apache-2.0
"""The row of a flow, as flow.h computes it: for `lbctl explain`, and for the expected results of packet tests."""

from typing import Final

from bpf.layout.address import WORD, Address, address_words
from bpf.layout.conf import key_words
from bpf.layout.service import Affinity

_LONG: Final = 0xFFFF_FFFF_FFFF_FFFF


def mix(word: int) -> int:
    """Mix a word into another, one to one: Wellons' lowbias32."""
    word = (word ^ word >> 16) * 0x7FEB_352D & WORD
    word = (word ^ word >> 15) * 0x846C_A68B & WORD
    return word ^ word >> 16


def flow_hash(
    hash_key: bytes, client: Address, client_port: int, vip: Address, vip_port: int,
    affinity: Affinity = Affinity.FIVE_TUPLE,
) -> int:  # fmt: skip
    """Return the 32-bit keyed hash of a flow; its low bits are the row. flow.h gives the reasons for it.

    It uses the words as the little-endian program loads them from the packet.
    """
    key = key_words(hash_key)
    ports = 0
    if affinity is not Affinity.TWO_TUPLE:
        ports = int.from_bytes(vip_port.to_bytes(2, "big"), "little") << 16
    if affinity is Affinity.FIVE_TUPLE:
        ports |= int.from_bytes(client_port.to_bytes(2, "big"), "little")
    total = key[0] + ports * key[9]
    for i, (ours, theirs) in enumerate(zip(address_words(client), address_words(vip), strict=True)):
        total += (ours + key[1 + 2 * i]) * (theirs + key[2 + 2 * i])
    return mix((total & _LONG) >> 32)


def row_of(
    hash_key: bytes, rows: int, client: Address, client_port: int, vip: Address, vip_port: int,
    affinity: Affinity = Affinity.FIVE_TUPLE,
) -> int:  # fmt: skip
    """Return the row of a flow in a table of `rows` (a power of two)."""
    return flow_hash(hash_key, client, client_port, vip, vip_port, affinity) & (rows - 1)
