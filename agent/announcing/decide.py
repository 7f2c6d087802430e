# SPDX-License-Identifier: Apache-2.0
"""The decision whether a VIP is announced: the node's condition (node/plan.py), then order and hold-down. Pure."""

from __future__ import annotations

from dataclasses import replace

from agent.announcing.hold_down import FlapRecord
from agent.announcing.order import Order
from agent.model import Announcement, Method


def decide(allowed: Announcement, order: Order | None, flaps: FlapRecord | None, now: float) -> Announcement:
    """Return the announcement of a VIP. `allowed` is what the node's condition allows, `now` CLOCK_MONOTONIC seconds.

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
