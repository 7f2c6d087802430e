# SPDX-License-Identifier: Apache-2.0
"""Records of NAT sessions for tests of the hand-over."""

from ipaddress import ip_address
from typing import Any

import numpy as np

from agent.handover.record import FORM_4, FORMS, Records
from bpf.layout.session import SessionState


def record(slot: int = 5, client: int = 1, version: int = 4, **values: Any) -> Records:
    """Return an array of one record: client number `client` at port 40000 + `client` of a TCP service."""
    one = np.zeros(1, FORMS[version])
    prefix = "10.1.0." if version == 4 else "fd01::"
    one["slot"], one["fingerprint"], one["state"] = slot, 1 + 2 * client, SessionState.EST
    one["created_age"], one["stamp_age"] = 10, 2
    for name, address in (("client", f"{prefix}{client}"), ("vip", f"{prefix}200"), ("backend", f"{prefix}100")):
        one[name] = np.frombuffer(ip_address(address).packed, np.uint8)
    one["client_port"], one["vip_port"], one["backend_port"], one["protocol"] = 40_000 + client, 443, 8443, 6
    for name, value in values.items():
        one[name] = value
    return one


def free(slot: int = 5) -> Records:
    """Return an array of one record of a free slot."""
    one = np.zeros(1, FORM_4)
    one["slot"] = slot
    return one
