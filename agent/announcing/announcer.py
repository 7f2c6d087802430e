# SPDX-License-Identifier: Apache-2.0
"""The announcing side of one agent: orders in force and kept, what is decided of each VIP, who watches.

Owns the memory between two decisions; the decisions are decide.py's and plan.py's, carrying them out is the relay's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from agent.address import Address
from agent.announcing import order_file as file
from agent.announcing.decide import (
    FlapRecord,
    Order,
    OrderKind,
    after_flap,
    decide,
    in_force,
    is_fault,
    order_for,
    with_orders,
    without_orders,
)
from agent.announcing.export_status import ExportHistory, ExportStatus, StatusEntry
from agent.config.schema import Config
from agent.model import Announcement
from agent.node.plan import Condition, announcement

log = logging.getLogger("anylb")

UNREAD = 1000
"""Changes that one watcher may leave unread before it is cut off."""


class Announcer:
    """What is to be announced, and its past. `now` is CLOCK_MONOTONIC, `wall` seconds since 1970."""

    def __init__(
        self, config: Config, path: Path, falls: Mapping[Address, FlapRecord], entries: Iterable[StatusEntry]
    ) -> None:
        """`path` is the file of the orders; `falls` and `entries` are what an earlier agent left."""
        self._config, self._path = config, path
        self.orders = frozenset(order for order in file.load(path) if order.vip in config.vips)
        self.falls = {vip: fall for vip, fall in falls.items() if vip in config.vips}
        self.announcements: dict[Address, Announcement] = {}
        self.unkept: str | None = None
        """Why the orders would not outlive this agent; None while they would."""
        self._ledger = ExportHistory(entries)
        self._watchers: set[asyncio.Queue[StatusEntry | None]] = set()

    @property
    def entries(self) -> tuple[StatusEntry, ...]:
        """How each VIP stands at each peer, and since when."""
        return self._ledger.entries

    def give(self, orders: Iterable[Order]) -> None:
        """Take in orders, each in the place of its like."""
        self._keep(with_orders(self.orders, orders))

    def lift(self, vips: Collection[Address], kind: OrderKind) -> None:
        """Take orders back. VIPs that are held back after a fall are let go as well: an operator knows better."""
        self.falls = {vip: fall for vip, fall in self.falls.items() if vip not in vips}
        self._keep(without_orders(self.orders, vips, kind))

    def decide(self, condition: Condition, untaken: Collection[str], now: float, wall: float) -> None:
        """Decide on every VIP. `untaken` as in plan.announcement."""
        still = in_force(self.orders, wall)
        for order in self.orders - still:
            log.info("%s: the end of what the operator said (%s)", order.vip, order.why)
        self._keep(still)
        for vip in self._config.vips:
            before = self.announcements.get(vip)
            base = announcement(self._config, vip, condition, untaken)
            new = decide(base, order_for(still, vip), self.falls.get(vip), now)
            if is_fault(before, new):
                self.falls[vip] = after_flap(self.falls.get(vip), now)
            if new != before:
                log.info("%s: %s, %s", vip, "to be announced" if new.wanted else "not to be announced", new.why)
            self.announcements[vip] = new

    def observe(self, standings: Iterable[ExportStatus], wall: float) -> None:
        """Take in how the VIPs stand at the peers, and tell the watchers what has changed."""
        for entry in self._ledger.observe(standings, wall):
            for queue in tuple(self._watchers):
                if queue.full():
                    self._watchers.discard(queue)
                    queue.get_nowait()
                    queue.put_nowait(None)
                else:
                    queue.put_nowait(entry)

    @contextlib.contextmanager
    def watched(self) -> Iterator[asyncio.Queue[StatusEntry | None]]:
        """The changes as they come, for as long as the context lasts; None when too many were left unread."""
        queue: asyncio.Queue[StatusEntry | None] = asyncio.Queue(UNREAD)
        self._watchers.add(queue)
        try:
            yield queue
        finally:
            self._watchers.discard(queue)

    def _keep(self, orders: frozenset[Order]) -> None:
        if orders == self.orders and self.unkept is None:
            return
        self.orders = orders
        try:
            file.save(self._path, orders)
            self.unkept = None
        except OSError as error:
            if self.unkept is None:
                log.error("%s: %s; a restarted agent will not know the operator's orders", self._path, error.strerror)
            self.unkept = f"{self._path}: {error.strerror}"
