# SPDX-License-Identifier: Apache-2.0
"""Records of sessions as they travel between nodes: numpy arrays. Pure.

Numbers are in network order on the wire, in the machine's here.

     0 slot                  4 age: ticks since created      8 ticks since the last packet
    12 last acknowledgment of the client                    16 that of the backend
    20 four checksum differences                            28 fingerprint
    30 state                31 flags
    32 the addresses of client, backend and VIP (4 or 16 bytes), each with its port; then the protocol and a zero

Ages travel instead of times, since each node's clock begins with its boot; the backend's address and port instead of
its index, since each node has its own; not the NAT endpoint, since the slot names it, and the item its pool.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.address import Address
from bpf.layout.session import SessionState, TagFlag

Records = NDArray[Any]
"""Records of one family: dtype `FORM_4` or `FORM_6`."""

MAX_AGE: Final = 1 << 31
_IDENTITY_FROM: Final = 32
_STATES: Final = (SessionState.SYN, SessionState.CLOSED)
"""The first and the last: a slot that is free or being written has no record."""
_TCP, _UDP = 6, 17
_FORM_FLAGS: Final = TagFlag.IPV6 | TagFlag.UDP


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
            ("backend", *address),
            ("backend_port", "u2"),
            ("vip", *address),
            ("vip_port", "u2"),
            ("protocol", "u1"),
            ("origin", "u1"),  # on the wire 0: its place among those of this node (item.py)
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
    sent = records.astype(records.dtype.newbyteorder(">"))
    sent["origin"] = 0
    return sent.tobytes()


def from_wire(data: bytes, version: int, origin: int = 0) -> Records:
    """Return the records in these bytes, whose length is a multiple of a record's, as those of an origin."""
    form = FORMS[version]
    records = np.frombuffer(data, form.newbyteorder(">")).astype(form)
    records["origin"] = origin
    return records


def identities(records: Records) -> NDArray[np.uint8]:
    """Return what makes two records of a slot the same session, as bytes: ends, VIP, ports, protocol, origin."""
    flat = np.ascontiguousarray(records).view(np.uint8).reshape(len(records), records.dtype.itemsize)
    return flat[:, _IDENTITY_FROM:]


def backend_keys(records: Records) -> list[bytes]:
    """Return the backend of each session: address and port."""
    return _slices(records, "backend", "vip")


def service_keys(records: Records) -> list[bytes]:
    """Return the service of each session: VIP, port and protocol."""
    return _slices(records, "vip", "origin")


def backend_key(address: Address, port: int) -> bytes:
    """Return a backend as `backend_keys` does."""
    one = np.zeros(1, FORMS[address.version])
    one["backend"], one["backend_port"] = np.frombuffer(address.packed, np.uint8), port
    return backend_keys(one)[0]


def service_key(vip: Address, port: int, protocol: int) -> bytes:
    """Return a service as `service_keys` does."""
    one = np.zeros(1, FORMS[vip.version])
    one["vip"], one["vip_port"], one["protocol"] = np.frombuffer(vip.packed, np.uint8), port, protocol
    return service_keys(one)[0]


def _slices(records: Records, first: str, end: str) -> list[bytes]:
    """Return the bytes from one field to another of each record."""
    fields, flat = records.dtype.fields, np.ascontiguousarray(records).tobytes()
    assert fields is not None
    start, stop = fields[first][1], fields[end][1]
    return [flat[at + start : at + stop] for at in range(0, len(flat), records.dtype.itemsize)]


def _form_flags(records: Records) -> NDArray[np.uint8]:
    """Return the flags that follow from the rest of the record."""
    ipv6 = TagFlag.IPV6 if version_of(records) == 6 else 0
    found: NDArray[np.uint8] = np.where(records["protocol"] == _UDP, TagFlag.UDP | ipv6, ipv6).astype(np.uint8)
    return found


def faults(records: Records, slots: int) -> tuple[NDArray[np.bool_], str]:
    """Return which records from another node no node would send, and why one of them: empty if there is none.

    `slots` is the number of slots.
    """
    checks = {
        "a slot is too high": records["slot"] >= slots,
        "a state is unknown": (records["state"] < _STATES[0]) | (records["state"] > _STATES[1]),
        "a fingerprint is even": (records["fingerprint"] & 1 == 0) & (records["state"] != SessionState.CLOSED),
        "an age is too high": (records["created_age"] >= MAX_AGE) | (records["stamp_age"] >= MAX_AGE),
        "a session is younger than its last packet": records["stamp_age"] > records["created_age"] + np.uint32(1),
        "a protocol is neither TCP nor UDP": (records["protocol"] != _TCP) & (records["protocol"] != _UDP),
        "a flag contradicts the record": (records["flags"] & _FORM_FLAGS) != _form_flags(records),
        "a port is 0": (records["vip_port"] == 0) | (records["backend_port"] == 0),
    }
    found: NDArray[np.bool_] = np.logical_or.reduce(list(checks.values()))
    return found, next((name for name, wrong in checks.items() if wrong.any()), "") if found.any() else ""
