# SPDX-License-Identifier: Apache-2.0
"""What follows from a datagram of the channel, for whoever uses it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from agent.channel.state import NodeState


@dataclass(frozen=True, slots=True)
class SessionBegun:
    """A session began: the peer is there, for the first time or again."""

    address: IPv4Address


@dataclass(frozen=True, slots=True)
class StateReceived:
    """A peer has another state than before."""

    address: IPv4Address
    state: NodeState


@dataclass(frozen=True, slots=True)
class ClaimsReceived:
    """A peer has other claims than before."""

    address: IPv4Address


@dataclass(frozen=True, slots=True)
class Notice:
    """A peer sent a notice. `kind` may be of a later release."""

    address: IPv4Address
    kind: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class ItemReceived:
    """The next item of a peer's stream has arrived. A peer may send items again after a `SessionBegun`."""

    address: IPv4Address
    payload: bytes


Event = SessionBegun | StateReceived | ClaimsReceived | Notice | ItemReceived
