# SPDX-License-Identifier: Apache-2.0
"""32-bit digests of a view and of tables, which nodes tell each other to show whether they agree. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from agent.model import Member


def member_digest(member: Member) -> int:
    """Return the digest of what decides a member's rows: the same on every node that believes the same of it."""
    shares = sorted((name, s.weight, s.effective, str(s.state)) for name, s in member.shares.items())
    return zlib.crc32(repr((int(member.address), member.epochs, shares)).encode())


def tables_digest(digests: Mapping[str, str]) -> int:
    """Return one digest of the tables of all services; `digests` by `service_key`."""
    return zlib.crc32(repr(sorted(digests.items())).encode())
