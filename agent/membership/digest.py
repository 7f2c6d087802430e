# SPDX-License-Identifier: Apache-2.0
"""32-bit digests of a view, of tables and of VIPs, which nodes exchange to show where they differ. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from agent.address import Address
from agent.model import Member


def member_digest(member: Member) -> int:
    """Return the digest of what decides a member's rows: the same on every node that believes the same of it."""
    shares = sorted((name, s.weight, s.effective, str(s.state)) for name, s in member.shares.items())
    return zlib.crc32(repr((int(member.address), member.epochs, shares)).encode())


def tables_digest(digests: Mapping[str, str]) -> int:
    """Return one digest of the tables of all services; `digests` by `service_key`."""
    return zlib.crc32(repr(sorted(digests.items())).encode())


def vip_digest(vip: Address) -> int:
    """Return the digest of a VIP, never 0. IPv4 VIPs differ in it, but for one pair: a CRC permutes 32 bits."""
    return zlib.crc32(vip.packed) or 1
