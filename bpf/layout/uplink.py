# SPDX-License-Identifier: Apache-2.0
"""An interface with our program, as the program knows it: `struct uplink`."""

from dataclasses import dataclass
from typing import Final

from bpf.layout.c_struct import CStruct

UPLINK_STRUCT: Final = CStruct("uplink", (("mac", "6s"), ("redirect", "H"), ("ifindex", "I")))


@dataclass(frozen=True)
class UplinkEntry:
    """An interface that the program is attached to. `redirect`: XDP_TX does not work on it (see forward.h)."""

    mac: bytes
    ifindex: int
    redirect: bool = False

    def pack(self) -> bytes:
        """Encode as `struct uplink`."""
        return UPLINK_STRUCT.codec.pack(self.mac, self.redirect, self.ifindex)

    @classmethod
    def unpack(cls, data: bytes) -> "UplinkEntry | None":
        """Decode `struct uplink`; None if it was never written."""
        mac, redirect, ifindex = UPLINK_STRUCT.codec.unpack(data)
        return cls(mac, ifindex, bool(redirect)) if ifindex else None
