# SPDX-License-Identifier: Apache-2.0
"""The decision whether a VIP is announced: the node's condition (node/condition.py), then order and hold-down. Pure.

`now` is CLOCK_MONOTONIC seconds, `wall` seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from agent.address import Address
from agent.announcing.hold_down import FlapRecord, after_flap, is_fault
from agent.announcing.order import Order, in_force, order_for
from agent.model import Announcement, Method


@dataclass(frozen=True, slots=True)
class Decisions:
    """The decision for each VIP, and the recent faults that hold some of them down."""

    announcements: Mapping[Address, Announcement] = field(default_factory=dict)
    flaps: Mapping[Address, FlapRecord] = field(default_factory=dict)

    def after(
        self, allowed: Mapping[Address, Announcement], orders: Collection[Order], now: float, wall: float
    ) -> Decisions:
        """Return the decisions for these VIPs. `allowed`: what the node's condition alone allows for each."""
        remaining = in_force(orders, wall)
        announcements, flaps = {}, {vip: flap for vip, flap in self.flaps.items() if vip in allowed}
        for vip, before in allowed.items():
            new = decide(before, order_for(remaining, vip), flaps.get(vip), now)
            if is_fault(self.announcements.get(vip), new):
                flaps[vip] = after_flap(flaps.get(vip), now)
            announcements[vip] = new
        return Decisions(announcements, flaps)

    def without_hold_down(self, vips: Collection[Address]) -> Decisions:
        """Return the decisions without the faults of these VIPs: the operator wants them up."""
        return replace(self, flaps={vip: flap for vip, flap in self.flaps.items() if vip not in vips})

    def next_at(self, orders: Collection[Order], now: float, wall: float) -> float:
        """Return when time alone changes a decision next, on the clock of `now`; infinity if it does not."""
        ends = [flap.at + flap.hold_s for flap in self.flaps.values() if flap.holds(now)]
        ends += [now + max(0.0, order.until - wall) for order in orders if order.until is not None]
        return min(ends, default=float("inf"))


def decide(allowed: Announcement, order: Order | None, flaps: FlapRecord | None, now: float) -> Announcement:
    """Return the announcement of a VIP. `allowed` is what the node's condition allows.

    An order to withdraw comes first, so that status names it even while the VIP is unhealthy. A drain's method applies
    only to a VIP that is announced.
    """
    if order is not None and order.method is Method.WITHDRAW:
        return Announcement(False, order.why)
    if not allowed.wanted:
        return allowed
    if flaps is not None and flaps.holds(now):
        return Announcement(False, flaps.why, fault=True)
    if order is not None:
        return replace(allowed, why=order.why, method=order.method)
    return allowed
