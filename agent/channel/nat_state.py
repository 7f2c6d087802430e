# SPDX-License-Identifier: Apache-2.0
"""What a node publishes for NAT: its share of the sessions, and what it knows of backends. Pure.

Three fields of a node's state (state.py), all absent on a node without NAT:

    type           value
    7 NAT          the node's share, once
    8 BACKENDS     results of this node's health checks, 4 bytes each; at most once
    9 DRAINS       orders for backends, 12 bytes each; at most once

     0               1               2               3
    +---------------+-------------------------------+
    |F| state       | weight                        |   NAT; the state as of a service; F: `former`
    +---------------+---------------+---------------+
    | effective weight              |
    +-------------------------------+

    +-+-------------------------------------------------------------+
    |U| backend                                                     |   BACKENDS; U: it answers
    +-+-------------------------------------------------------------+

    +-+-------------------------------------------------------------+
    |D| backend                                                     |   DRAINS; D: it is drained
    +-+-------------------------------------------------------------+
    | version of the order                                          |
    +---------------------------------------------------------------+
    | sessions of this node with the backend, if it is drained      |
    +---------------------------------------------------------------+

A backend is named by 31 bits, the same on every node (agent/nat/backend.py).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

from agent.channel.field import STATE_OF, STATES, check_weights, distinct, records
from agent.model import State

NAT, BACKENDS, DRAINS = 7, 8, 9
MAX_BACKENDS: Final = 4096
MAX_DRAINS: Final = 512
ID_BITS: Final = 31
_FLAG: Final = 1 << ID_BITS
_FORMER: Final = 1 << 7
_SHARE: Final = struct.Struct("!BHH")
_RESULT: Final = struct.Struct("!I")
_DRAIN: Final = struct.Struct("!III")


class BackendOrder(NamedTuple):
    """The last order for a backend: of two, the one with the higher `version` counts."""

    version: int
    drained: bool
    sessions: int = 0
    """How many sessions the publishing node has with a drained backend."""


@dataclass(frozen=True, slots=True)
class NatState:
    """What a node publishes for NAT. `results`: whether a backend that the node checks answers; `orders`: the last
    order for each backend that ever had one; both by the backend's number."""

    weight: int
    effective: int
    state: State
    results: Mapping[int, bool] = field(default_factory=dict)
    orders: Mapping[int, BackendOrder] = field(default_factory=dict)
    former: bool = False
    """Whether the node has sessions with addresses of the former pool, or that began with the former number."""


def pack(nat: NatState | None) -> list[tuple[int, bytes]]:
    """Return the fields, by type. Raises ValueError if a value is out of its bounds."""
    if nat is None:
        return []
    if nat.state not in STATES:
        raise ValueError(f"NAT: no node is {nat.state} by its own account")
    check_weights("NAT", nat.weight, nat.effective)
    for number in (*nat.results, *nat.orders):
        if not 0 <= number < _FLAG:
            raise ValueError(f"backend {number} is not a number of {ID_BITS} bits")
    orders = [
        _DRAIN.pack(number | (_FLAG if one.drained else 0), one.version, min(one.sessions, 0xFFFFFFFF))
        for number, one in sorted(nat.orders.items())
    ]
    return [
        (NAT, _SHARE.pack(STATES[nat.state] | (_FORMER if nat.former else 0), nat.weight, nat.effective)),
        (BACKENDS, b"".join(_RESULT.pack(n | (_FLAG if up else 0)) for n, up in sorted(nat.results.items()))),
        (DRAINS, b"".join(orders)),
    ]


def unpack(share: bytes | None, results: bytes, orders: bytes) -> NatState | None:
    """Return what the fields contain, None without a share. Raises ValueError with what is wrong."""
    if share is None:
        return None
    if len(share) != _SHARE.size:
        raise ValueError(f"NAT has {len(share)} bytes, not {_SHARE.size}")
    flagged, weight, effective = _SHARE.unpack(share)
    state = flagged & ~_FORMER
    if state not in STATE_OF:
        raise ValueError(f"NAT: state {state} is not in 1-{len(STATE_OF)}")
    check_weights("NAT", weight, effective)
    former = bool(flagged & _FORMER)
    return NatState(weight, effective, STATE_OF[state], _results(results), _orders(orders), former)


@functools.lru_cache(maxsize=64)
def _results(data: bytes) -> Mapping[int, bool]:
    numbers = [number for (number,) in records("BACKENDS", data, _RESULT, MAX_BACKENDS)]
    _ids(numbers)
    return MappingProxyType({number & ~_FLAG: bool(number & _FLAG) for number in numbers})


# Nodes have the same orders, and most have no session with a drained backend: they share one mapping.
@functools.lru_cache(maxsize=64)
def _orders(data: bytes) -> Mapping[int, BackendOrder]:
    found = list(records("DRAINS", data, _DRAIN, MAX_DRAINS))
    _ids(number for number, _, _ in found)
    return MappingProxyType(
        {number & ~_FLAG: BackendOrder(version, bool(number & _FLAG), count) for number, version, count in found}
    )


def _ids(numbers: Iterable[int]) -> None:
    distinct("backend", (number & ~_FLAG for number in numbers))
