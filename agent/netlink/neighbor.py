# SPDX-License-Identifier: Apache-2.0
"""A neighbor, which is an address on a link with its MAC, and the requests about it (linux/neighbor.h). Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from agent.address import Address
from agent.netlink.message import (
    FAMILY,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    RTM_GETNEIGH,
    RTM_NEWNEIGH,
    Request,
    address,
    attributes,
    number,
    pack_attribute,
)

Neighbor = tuple[int, Address]
"""The key of a neighbor: its interface, by index, and its address."""

_NDMSG: Final = struct.Struct("=BxxxiHBB")
"""struct ndmsg: family, interface, state, flags, type."""
_NDA_DST: Final = 1
_NDA_LLADDR: Final = 2
_NDA_FLAGS_EXT: Final = 15
_NTF_USE: Final = 0x01
"""Resolve the neighbor as if a packet had been sent to it."""
_NTF_EXT_LEARNED: Final = 0x10
_NTF_EXT_MANAGED: Final = 0x1
_NUD_PROBE: Final = 0x10
_NUD_FAILED: Final = 0x20
_NUD_NOARP: Final = 0x40
_NUD_PERMANENT: Final = 0x80
_NUD_IDLE: Final = 0x02 | 0x04 | 0x08
"""Reachable, stale or delay: a MAC is known, and the kernel sends no solicitation now."""


@dataclass(frozen=True, slots=True)
class NeighborEntry:
    """The kernel's entry of a neighbor. `mac` is None as long as it has not answered, and when it failed."""

    address: Address
    ifindex: int
    mac: bytes | None
    maintained: bool = False
    """Someone maintains it: it is permanent, noarp, extern_learn or managed. The kernel ends this at NTF_USE."""
    idle: bool = False
    """Its MAC is known, and the kernel sends no solicitation to it now."""
    failed: bool = False
    """It has not answered the kernel's solicitations."""

    @property
    def key(self) -> Neighbor:
        """The neighbor's key."""
        return self.ifindex, self.address


def confirm_request(neighbor: Neighbor) -> Request:
    """Return the request to resolve a neighbor, or to confirm the MAC that is known of it. It has no answer."""
    ifindex, to = neighbor
    body = _NDMSG.pack(FAMILY[to.version], ifindex, 0, _NTF_USE, 0) + pack_attribute(_NDA_DST, to.packed)
    return Request(RTM_NEWNEIGH, body, NLM_F_CREATE | NLM_F_REPLACE)


def probe_request(neighbor: Neighbor) -> Request:
    """Return the request to solicit a neighbor at once, whose MAC stays in use meanwhile. It has no answer.

    If nothing comes back, the kernel has it failed after `ucast_solicit` (3) solicitations in `retrans_time_ms` (1,000)
    each. Left alone it asks only what has not been confirmed for 15 to 45 s, and 5 s later.
    """
    ifindex, of = neighbor
    body = _NDMSG.pack(FAMILY[of.version], ifindex, _NUD_PROBE, 0, 0) + pack_attribute(_NDA_DST, of.packed)
    return Request(RTM_NEWNEIGH, body, NLM_F_REPLACE)


def neighbor_request(neighbor: Neighbor) -> Request:
    """Return the request for the entry of a neighbor."""
    ifindex, of = neighbor
    body = _NDMSG.pack(FAMILY[of.version], ifindex, 0, 0, 0) + pack_attribute(_NDA_DST, of.packed)
    return Request(RTM_GETNEIGH, body)


def neighbor_from(body: bytes) -> NeighborEntry | None:
    """Return the entry that an RTM_NEWNEIGH describes; None if it is neither IPv4's nor IPv6's (a bridge has some)."""
    if len(body) < _NDMSG.size:
        return None
    family, ifindex, state, flags, _ = _NDMSG.unpack_from(body)
    found = attributes(body, _NDMSG.size)
    destination = address(found.get(_NDA_DST))
    if destination is None or family != FAMILY[destination.version]:
        return None
    mac = found.get(_NDA_LLADDR, b"")
    maintained = state & (_NUD_PERMANENT | _NUD_NOARP) or flags & _NTF_EXT_LEARNED
    maintained = maintained or number(found.get(_NDA_FLAGS_EXT)) & _NTF_EXT_MANAGED
    known = mac if len(mac) == 6 and any(mac) else None
    idle, failed = bool(known and state & _NUD_IDLE), bool(state & _NUD_FAILED)
    return NeighborEntry(destination, ifindex, known, bool(maintained), idle, failed)
