# SPDX-License-Identifier: Apache-2.0
"""Records and events of sessions as numpy sees them in a map's memory."""

from typing import Any, Final

import numpy as np

from bpf.layout.session import SESSION4_STRUCT, SESSION6_STRUCT, SESSION_ENDS, SESSION_STRUCT

EVENT_DTYPE: Final = np.dtype([("slot", "<u4"), ("pad", "<u4"), ("before", "<u8"), ("after", "<u8")])

_FORMS: Final = (
    ("protocol", "u1"), ("family", "u1"), ("backend_index", "<u2"), ("service_slot", "<u2"), ("bucket_bits", "u1")
)  # fmt: skip


def _dtype(address_bytes: int, size: int) -> "np.dtype[Any]":
    """Return the type of a record as numpy sees it: addresses and ports in network order, IPv6 addresses and checksum
    differences as bytes."""
    at = 4 * address_bytes
    address = ">u4" if address_bytes == 4 else f"V{address_bytes}"
    fields = {end: (address, i * address_bytes) for i, end in enumerate(SESSION_ENDS)}
    offsets = SESSION_STRUCT.offsets()
    for name in ("client_port", "vip_port", "backend_port", "nat_port"):
        fields[name] = (">u2", at + offsets[name])
    for name, form in _FORMS:
        fields[name] = (form, at + offsets[name])
    fields["sums"] = ("V8", at + offsets["sums"])
    for name in ("created", "client_ack", "backend_ack"):
        fields[name] = ("<u4", at + offsets[name])
    names = list(fields)
    forms, places = [fields[name][0] for name in names], [fields[name][1] for name in names]
    return np.dtype({"names": names, "formats": forms, "offsets": places, "itemsize": size})


SESSION4_DTYPE: Final = _dtype(4, SESSION4_STRUCT.size)
SESSION6_DTYPE: Final = _dtype(16, SESSION6_STRUCT.size)
