# SPDX-License-Identifier: Apache-2.0
"""The operator's orders in force, and their file: an order outlives the agent that received it.

What an order means is order.py's, what follows from it decide.py's.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from pathlib import Path

from agent.address import Address
from agent.announcing import order_file
from agent.announcing.order import Order, OrderKind, in_force, with_orders, without_orders

log = logging.getLogger("anylb")


class OrderBook:
    """The orders for some VIPs. `wall` is seconds since 1970."""

    def __init__(self, path: Path, vips: Collection[Address]) -> None:
        """Read the orders from the file at `path`; those for other VIPs than `vips` are dropped."""
        self._path = path
        self.orders = frozenset(order for order in order_file.load(path) if order.vip in vips)
        self.save_error: str | None = None
        """Why the orders could not be saved and would not outlive this agent; None when they are saved."""

    def add(self, orders: Iterable[Order]) -> None:
        """Add orders and save them; each replaces the order of its VIP and kind."""
        self._save(with_orders(self.orders, orders))

    def remove(self, vips: Collection[Address], kind: OrderKind) -> None:
        """Remove the orders of one kind for these VIPs."""
        self._save(without_orders(self.orders, vips, kind))

    def expire(self, wall: float) -> None:
        """Remove the orders whose time is over. Save again what could not be saved before."""
        remaining = in_force(self.orders, wall)
        for order in self.orders - remaining:
            log.info("%s: order expired (%s)", order.vip, order.why)
        self._save(remaining)

    def _save(self, orders: frozenset[Order]) -> None:
        if orders == self.orders and self.save_error is None:
            return
        self.orders = orders
        try:
            order_file.save(self._path, orders)
            self.save_error = None
        except OSError as error:
            if self.save_error is None:
                log.error("%s: %s; a restarted agent will not know the operator's orders", self._path, error.strerror)
            self.save_error = f"{self._path}: {error.strerror}"
