# SPDX-License-Identifier: Apache-2.0
"""A node's identity, encoded as large communities of its identity prefix: who may be there, and nothing else.

Owns the wire format only: the agent decides which identities count. What a node serves it sends the others itself
(agent/channel/), so an identity has the same size whatever that is.

    RFC 8092 section 3: a large community is three numbers of 32 bits

    +----------------------+------------------------+----------------------------------------------+
    | global administrator | local data 1           | local data 2                                 |
    +----------------------+------------------------+----------------------------------------------+
    | cluster              | 1 << 28                | IPv4 address of the node                     |
    | cluster              | 4 << 28 ... 7 << 28    | IPv6 address of the node, 32 bits each, or   |
    |                      |                        | none of the four                             |
    | cluster              | 8 << 28                | start: when its agent started                |
    | cluster              | 11 << 28               | a digest of a VIP that it announces; absent  |
    |                      |                        | if it announces none                         |
    +----------------------+------------------------+----------------------------------------------+

A reader skips unknown types, so that a later release can add some.

Standard library only: the relay archive carries this file.
"""

from __future__ import annotations

import enum
import functools
import ipaddress
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from bgp.errors import BgpError
from bgp.route import LargeCommunity

_TYPE_BITS = 28
# RFC 8092 section 3: these values of the global administrator should not be used.
_RESERVED_CLUSTERS = frozenset({0, 65535, 0xFFFFFFFF})


class _Type(enum.IntEnum):
    ADDRESS = 1
    ADDRESS_6 = 4
    """The first of four types: 32 bits each."""
    START = 8
    ANNOUNCES = 11


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of one node.

    `start`: seconds since 1970 at which its agent started, modulo 2^32. After a new one the others ask it again, no
    more: nothing is decided by it. `announces`: the digest of one of the VIPs that it announces to the routers, 0 if it
    announces none. The relay's quorum counts those that do; whoever has that VIP in another cluster is named.
    """

    cluster: int
    address: ipaddress.IPv4Address
    address6: ipaddress.IPv6Address | None = None
    start: int = 0
    announces: int = 0


def encode(identity: Identity) -> tuple[LargeCommunity, ...]:
    """Return the communities, sorted; BgpError if a field is out of range."""
    cluster = identity.cluster
    if not 0 < cluster < 1 << 32 or cluster in _RESERVED_CLUSTERS:
        raise BgpError(f"identity: cluster {cluster} is not in 1-4294967294, or is 65535, which RFC 8092 reserves")
    if not 0 <= identity.start < 1 << 32:
        raise BgpError(f"identity: start {identity.start} is not a number of 32 bits")
    if not 0 <= identity.announces < 1 << 32:
        raise BgpError(f"identity: the digest {identity.announces} is not a number of 32 bits")
    values = {_Type.ADDRESS: int(identity.address), _Type.START: identity.start}
    if identity.announces:
        values[_Type.ANNOUNCES] = identity.announces
    communities = [(cluster, kind << _TYPE_BITS, value) for kind, value in values.items()]
    if identity.address6 is not None:
        communities += [
            (cluster, (_Type.ADDRESS_6 + i) << _TYPE_BITS, part)
            for i, part in enumerate(struct.unpack("!4I", identity.address6.packed))
        ]
    return tuple(sorted((int(a), int(b), int(c)) for a, b, c in communities))


def decode(communities: Iterable[LargeCommunity], cluster: int) -> Identity | None:
    """Return the identity that a route's communities carry for this cluster; None if none, or a malformed one."""
    found = _parse(tuple(communities), cluster)
    return found if isinstance(found, Identity) else None


def decode_other(communities: Iterable[LargeCommunity], cluster: int) -> Identity | None:
    """Return the identity that a route's communities carry for another cluster than this one; None if none."""
    communities = tuple(communities)
    others = {one for one, key, _ in communities if key == _Type.ADDRESS << _TYPE_BITS and one != cluster}
    return next((one for one in (decode(communities, other) for other in sorted(others)) if one), None)


def problem(communities: Iterable[LargeCommunity], cluster: int) -> str | None:
    """Return why `decode` refused this cluster's communities; None if it accepted them, or there are none."""
    found = _parse(tuple(communities), cluster)
    return found if isinstance(found, str) else None


# Several routers advertise the same identities, and the relay decodes all each second while its agent is silent.
@functools.lru_cache(maxsize=4096)
def _parse(communities: tuple[LargeCommunity, ...], cluster: int) -> Identity | str | None:
    values: dict[int, int] = {}
    for administrator, key, value in communities:
        if administrator != cluster or key & ((1 << _TYPE_BITS) - 1):
            continue
        if values.setdefault(key >> _TYPE_BITS, value) != value:
            return f"identity: {administrator}:{key} appears twice, as {values[key >> _TYPE_BITS]} and as {value}"
    if not values:
        return None
    address = values.get(_Type.ADDRESS)
    if address is None:
        return f"identity: cluster {cluster} without an address"
    parts = [values[kind] for kind in range(_Type.ADDRESS_6, _Type.ADDRESS_6 + 4) if kind in values]
    if len(parts) not in (0, 4):
        return f"identity: cluster {cluster} with {len(parts)} of the 4 parts of an IPv6 address"
    address6 = ipaddress.IPv6Address(struct.pack("!4I", *parts)) if parts else None
    start, announces = values.get(_Type.START, 0), values.get(_Type.ANNOUNCES, 0)
    return Identity(cluster, ipaddress.IPv4Address(address), address6, start, announces)
