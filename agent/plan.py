# SPDX-License-Identifier: Apache-2.0
"""From the configuration, this node's condition and its view to what shall be: routes, chains, grace. Pure.

Owns every decision between "what is" and "what to write"; apply.py and the BGP relay carry it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import numpy as np
from numpy.typing import NDArray

from agent.config import Config, ServiceConfig
from agent.model import Address, Candidate, Member, Share, State

GRACE_S = 10.0
GRACE_IN_ALL_S = 30.0
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Condition:
    """What this node knows of itself and what its operator asked of it."""

    forwarding: bool
    """XDP is attached and the tables are written (always true where the data path is off by configuration)."""
    healthy: Mapping[str, bool]
    """By service name."""
    intent: State = State.UP
    """What the operator wants of the node: `up`, `draining` or `left`."""
    withheld: frozenset[Address] = field(default_factory=frozenset)
    """VIPs that the operator withdrew."""
    begun: frozenset[Address] = field(default_factory=frozenset)
    """VIPs that have been announced since their services first rose."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """Whether a VIP is to be announced, and why (not)."""

    wanted: bool
    why: str


def own_share(service: ServiceConfig, condition: Condition) -> Share:
    """What this node tells the others of its part in a service."""
    serves = condition.healthy[service.name] and condition.intent is State.UP
    return Share(service.weight, service.weight if serves else 0, condition.intent)


def announcement(config: Config, vip: Address, condition: Condition) -> Announcement:
    """Whether to announce a VIP.

    With the data path, a VIP once begun stays announced while the node can forward, even when its own service is
    unhealthy: only the weight becomes 0, and the router's ECMP set is not disturbed. Without (`xdp.mode: off`),
    nobody would forward for an unhealthy service, so its VIP is withdrawn.
    """
    if condition.intent is not State.UP:
        return Announcement(False, f"the node is {condition.intent}")
    if vip in condition.withheld:
        return Announcement(False, "withdrawn by the operator")
    if not condition.forwarding:
        return Announcement(False, "the data path is not ready")
    if vip.version == 6:
        return Announcement(False, "IPv6 routes are not announced yet; give the router a static one")
    sick = [s.name for s in config.services if s.vip == vip and not condition.healthy[s.name]]
    forwards = config.xdp.mode != "off"
    if sick and not (forwards and vip in condition.begun):
        return Announcement(False, f"unhealthy: {', '.join(sick)}")
    return Announcement(True, f"forwarding for {', '.join(sick)}" if sick else "healthy")


def candidates(service_id: int, members: Iterable[Member]) -> tuple[Candidate, ...]:
    """The members of one service as the table builder takes them."""
    found = []
    for member in members:
        share = member.share(service_id)
        if share is not None:
            found.append(Candidate(member.address, share.weight, share.effective, share.state))
    return tuple(found)


def node_indexes(
    taken: Mapping[IPv4Address, int], wanted: Iterable[IPv4Address], size: int
) -> dict[IPv4Address, int] | None:
    """Which entry of the kernel's node array each address has: those that have one keep it, so that no row changes
    its meaning while it is in use. Index 0 is none. None when the array is full."""
    indexes = {address: taken[address] for address in wanted if address in taken}
    # An index that is given up now is not given out again in the same step: the old rows still name it.
    used = set(taken.values())
    free = (index for index in range(1, size) if index not in used)
    for address in sorted(set(wanted) - set(taken)):
        index = next(free, None)
        if index is None:
            return None
        indexes[address] = index
    return indexes


@dataclass(frozen=True, slots=True)
class Grace:
    """Until when each row drops a packet that nobody claims: CLOCK_MONOTONIC ns, uint64 of shape (rows,)."""

    until: NDArray[np.uint64]
    first: NDArray[np.uint64]
    """When the row's present run of changes began."""
    last: NDArray[np.uint64]
    """When the row changed last. A run ends when it has not changed for `GRACE_S`."""

    @staticmethod
    def of(until: NDArray[np.uint64]) -> Grace:
        """The grace that an earlier agent left; its runs count as ended."""
        return Grace(until, np.zeros_like(until), np.zeros_like(until))

    def after(self, changed: NDArray[np.bool_], now: float) -> Grace:
        """The grace when these rows change now: `GRACE_S` more, `GRACE_IN_ALL_S` at most since the run began.

        While a row changes, the node that holds a connection may be one that no visited chain names yet. Dropped, the
        packet is sent again by TCP and finds it; delivered, it would be answered with a reset. The bound keeps a row
        that never comes to rest from swallowing packets for good.
        """
        now_ns, grace_ns = np.uint64(int(now * _NS)), np.uint64(int(GRACE_S * _NS))
        first = np.where(changed & (self.last + grace_ns <= now_ns), now_ns, self.first)
        extended = np.minimum(now_ns + grace_ns, first + np.uint64(int(GRACE_IN_ALL_S * _NS)))
        until = np.where(changed, np.maximum(self.until, extended), self.until)
        return Grace(until, first, np.where(changed, now_ns, self.last))
