# SPDX-License-Identifier: Apache-2.0
"""An operator's orders for VIPs: `lbctl announce down` and `drain`. Pure.

A VIP has at most one order of each kind; `down` takes precedence over `drain`. Orders outlive agents and reboots, so
their times are wall-clock time (`wall`, seconds since 1970). order_file.py keeps them on disk.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

from agent.address import Address
from agent.model import Method
from agent.time_text import format_time


class OrderKind(StrEnum):
    """The kind of an order. A VIP has at most one order of each kind."""

    DOWN = "down"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True)
class Order:
    """An operator's order for one VIP. `since` and `until` are seconds since 1970; None: until it is removed."""

    vip: Address
    kind: OrderKind
    method: Method
    reason: str
    since: float
    until: float | None = None

    @property
    def why(self) -> str:
        """The order as text, with its end and the operator's reason."""
        what = {
            OrderKind.DOWN: "withdrawn by the operator",
            OrderKind.DRAIN: f"drained by the operator ({self.method})",
        }[self.kind]
        end = f" until {format_time(self.until)}" if self.until else ""
        return what + end + (f": {self.reason}" if self.reason else "")


def with_orders(orders: Collection[Order], new: Iterable[Order]) -> frozenset[Order]:
    """Return the orders with new ones added; each replaces the order of its VIP and kind."""
    added = {(order.vip, order.kind): order for order in new}
    return frozenset(order for order in orders if (order.vip, order.kind) not in added) | frozenset(added.values())


def without_orders(orders: Collection[Order], vips: Collection[Address], kind: OrderKind) -> frozenset[Order]:
    """Return the orders without those of one kind for these VIPs."""
    return frozenset(order for order in orders if order.kind is not kind or order.vip not in vips)


def in_force(orders: Collection[Order], wall: float) -> frozenset[Order]:
    """Return the orders that have not expired."""
    return frozenset(order for order in orders if order.until is None or wall < order.until)


def order_for(orders: Iterable[Order], vip: Address) -> Order | None:
    """Return the order that applies to a VIP: `down` before `drain`."""
    found = {order.kind: order for order in orders if order.vip == vip}
    return found.get(OrderKind.DOWN) or found.get(OrderKind.DRAIN)
