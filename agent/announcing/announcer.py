# SPDX-License-Identifier: Apache-2.0
"""What one agent remembers about its announcements: the orders in force, each VIP's flaps and decision, the watchers.

Owns the memory between two decisions. The decisions are decide.py's and node/plan.py's; the relay carries them out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from agent.address import Address
from agent.announcing import order_file
from agent.announcing.decide import decide
from agent.announcing.export_status import ExportHistory, ExportStatus, StatusEntry
from agent.announcing.hold_down import FlapRecord, after_flap, is_fault
from agent.announcing.order import Order, OrderKind, in_force, order_for, with_orders, without_orders
from agent.config.schema import Config
from agent.model import Announcement

log = logging.getLogger("anylb")

MAX_UNREAD = 1000
"""Changes that one watcher may leave unread before it is disconnected."""


class Announcer:
    """The announcements of this node and their history. `now` is CLOCK_MONOTONIC, `wall` seconds since 1970."""

    def __init__(
        self, config: Config, path: Path, flaps: Mapping[Address, FlapRecord], entries: Iterable[StatusEntry]
    ) -> None:
        """`path` is the file of the orders; `flaps` and `entries` come from an earlier agent."""
        self._config, self._path = config, path
        self.orders = frozenset(order for order in order_file.load(path) if order.vip in config.vips)
        self.flaps = {vip: record for vip, record in flaps.items() if vip in config.vips}
        self.announcements: dict[Address, Announcement] = {}
        self.save_error: str | None = None
        """Why the orders could not be saved and would not outlive this agent; None when they are saved."""
        self._history = ExportHistory(entries)
        self._watchers: set[asyncio.Queue[StatusEntry | None]] = set()

    @property
    def entries(self) -> tuple[StatusEntry, ...]:
        """The export status of each VIP at each peer, with its time."""
        return self._history.entries

    def add_orders(self, orders: Iterable[Order]) -> None:
        """Add orders and save them; each replaces the order of its VIP and kind."""
        self._save(with_orders(self.orders, orders))

    def remove_orders(self, vips: Collection[Address], kind: OrderKind) -> None:
        """Remove the orders of one kind for these VIPs. This ends their hold-down too: the operator knows better."""
        self.flaps = {vip: record for vip, record in self.flaps.items() if vip not in vips}
        self._save(without_orders(self.orders, vips, kind))

    def decide(self, allowed: Mapping[Address, Announcement], now: float, wall: float) -> None:
        """Decide whether each VIP is announced. `allowed`: the decision of the node's condition alone, for each."""
        remaining = in_force(self.orders, wall)
        for order in self.orders - remaining:
            log.info("%s: order expired (%s)", order.vip, order.why)
        self._save(remaining)
        for vip in self._config.vips:
            before = self.announcements.get(vip)
            new = decide(allowed[vip], order_for(remaining, vip), self.flaps.get(vip), now)
            if is_fault(before, new):
                self.flaps[vip] = after_flap(self.flaps.get(vip), now)
            if new != before:
                log.info("%s: %s, %s", vip, "announcing" if new.wanted else "not announcing", new.why)
            self.announcements[vip] = new

    def observe(self, statuses: Iterable[ExportStatus], wall: float) -> None:
        """Record the export status of all VIPs, and send what changed to the watchers."""
        for entry in self._history.observe(statuses, wall):
            for queue in tuple(self._watchers):
                if queue.full():
                    self._watchers.discard(queue)
                    queue.get_nowait()
                    queue.put_nowait(None)
                else:
                    queue.put_nowait(entry)

    @contextlib.contextmanager
    def watch(self) -> Iterator[asyncio.Queue[StatusEntry | None]]:
        """Yield a queue of the changes from now on; it ends with None when the watcher left too many unread."""
        queue: asyncio.Queue[StatusEntry | None] = asyncio.Queue(MAX_UNREAD)
        self._watchers.add(queue)
        try:
            yield queue
        finally:
            self._watchers.discard(queue)

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
