# SPDX-License-Identifier: Apache-2.0
"""Records of sessions as they travel between nodes: numpy arrays. Pure.

Numbers are in network order on the wire, in the machine's here.

     0 slot                  4 age: ticks since created      8 ticks since the last packet
    12 last acknowledgment of the client                    16 that of the backend
    20 four checksum differences                            28 fingerprint
    30 state                31 flags
    32 client and its port; VIP and backend, their ports, the protocol and a zero. Addresses have 4 or 16 bytes

Ages travel instead of times, since each node's clock begins with its boot; the backend's address and port instead of
its index, since each node has its own; not the NAT endpoint, since the slot names it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.address import Address

Records = NDArray[Any]
"""Records of one family: dtype `FORM_4` or `FORM_6`."""

MAX_AGE: Final = 1 << 31
_IDENTITY_FROM: Final = 32
_STATES = (1, 4)
"""From SYN to CLOSED: a slot that is free or being written has no record."""
_PROTOCOLS = (6, 17)


def _form(address_bytes: int) -> np.dtype[Any]:
    address = ("u1", (address_bytes,))
    return np.dtype(
        [
            ("slot", "u4"),
            ("created_age", "u4"),
            ("stamp_age", "u4"),
            ("client_ack", "u4"),
            ("backend_ack", "u4"),
            ("sums", "u1", (8,)),
            ("fingerprint", "u2"),
            ("state", "u1"),
            ("flags", "u1"),
            ("client", *address),
            ("client_port", "u2"),
            ("vip", *address),
            ("backend", *address),
            ("vip_port", "u2"),
            ("backend_port", "u2"),
            ("protocol", "u1"),
            ("zero", "u1"),
        ]
    )


FORM_4: Final = _form(4)
FORM_6: Final = _form(16)
FORMS: Final = {4: FORM_4, 6: FORM_6}


def version_of(records: Records) -> int:
    """Return the IP version of records."""
    return 4 if records.dtype.itemsize == FORM_4.itemsize else 6


def to_wire(records: Records) -> bytes:
    """Return the bytes of records on the wire."""
    return records.astype(records.dtype.newbyteorder(">")).tobytes()


def from_wire(data: bytes, version: int) -> Records:
    """Return the records in these bytes, whose length is a multiple of a record's."""
    form = FORMS[version]
    return np.frombuffer(data, form.newbyteorder(">")).astype(form)


def identities(records: Records) -> NDArray[np.uint8]:
    """Return what makes two records of a slot the same session, as bytes: ends, VIP, ports, protocol."""
    flat = np.ascontiguousarray(records).view(np.uint8).reshape(len(records), records.dtype.itemsize)
    return flat[:, _IDENTITY_FROM:]


def destinations(records: Records) -> NDArray[np.uint8]:
    """Return which service and backend each session is of, as bytes."""
    return identities(records)[:, records.dtype["client"].itemsize + 2 :]


def destination(vip: Address, backend: Address, vip_port: int, backend_port: int, protocol: int) -> bytes:
    """Return the same bytes for one backend of a service."""
    one = np.zeros(1, FORMS[vip.version])
    for name, address in (("vip", vip), ("backend", backend)):
        one[name] = np.frombuffer(address.packed, np.uint8)
    one["vip_port"], one["backend_port"], one["protocol"] = vip_port, backend_port, protocol
    return destinations(one).tobytes()


def fault(records: Records, slots: int) -> str:
    """Return what is wrong with records from another node, empty if nothing is; `slots` is the number of slots."""
    checks = {
        "a slot is too high": records["slot"] >= slots,
        "a state is unknown": (records["state"] < _STATES[0]) | (records["state"] > _STATES[1]),
        "a fingerprint is 0": records["fingerprint"] == 0,
        "an age is too high": (records["created_age"] >= MAX_AGE) | (records["stamp_age"] >= MAX_AGE),
        "a session is younger than its last packet": records["stamp_age"] > records["created_age"] + np.uint32(1),
        "a protocol is neither TCP nor UDP": ~np.isin(records["protocol"], _PROTOCOLS),
        "a port is 0": (records["vip_port"] == 0) | (records["backend_port"] == 0),
    }
    return next((name for name, wrong in checks.items() if wrong.any()), "")
