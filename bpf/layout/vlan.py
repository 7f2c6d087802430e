# SPDX-License-Identifier: Apache-2.0
"""The VLANs whose frames are the program's: `struct vlan_set`."""

from collections.abc import Iterable
from typing import Final

from bpf.layout.c_struct import CStruct

_WORDS: Final = 64
VLAN_SET_STRUCT: Final = CStruct("vlan_set", (("bits", f"{_WORDS}Q"),))
_NO_VLAN: Final = 0
"""The identifier in the tag of a frame that is in no VLAN, and only has a priority (IEEE 802.1Q)."""


def pack_vlans(vlans: Iterable[int]) -> bytes:
    """Encode as `struct vlan_set`: a bit for each VLAN, and that of priority tags, which are the program's too."""
    bits = 0
    for vlan in {_NO_VLAN, *vlans}:
        bits |= 1 << vlan
    return bits.to_bytes(8 * _WORDS, "little")


def unpack_vlans(data: bytes) -> frozenset[int]:
    """Decode `struct vlan_set`."""
    bits = int.from_bytes(data, "little")
    return frozenset(vlan for vlan in range(1, 64 * _WORDS) if bits >> vlan & 1)
