# SPDX-License-Identifier: Apache-2.0
"""NAT on one node: its sessions, its backends, and the hand-over of sessions, each with a keeper of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, MutableMapping
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

from agent.address import Network
from agent.config.schema import Config
from agent.health.rise_fall import Health
from agent.nat.change import ending_change, moved_families
from agent.nat.orders import Orders
from agent.node.backend_keeper import BackendKeeper
from agent.node.forwarder import Forwarder
from agent.node.hand_over_keeper import hand_over_keeper
from agent.node.membership import Membership
from agent.node.plan import ThisNode
from agent.sessions.keeper import SessionKeeper
from agent.sessions.listing import close_selected, count_live
from agent.sessions.selection import Selection
from agent.sessions.session_table import SessionTable
from agent.sessions.tag_array import LIVE
from agent.sessions.watch import SessionWatch
from bpf.layout.counter import Counter

log = logging.getLogger("anylb")

EVERY: Final[dict[int, Network]] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}


class Nat:
    """What a node has for NAT: without it everything here is None, and nothing runs."""

    def __init__(
        self,
        node: ThisNode,
        forwarder: Forwarder | None,
        membership: Membership,
        orders: Orders,
        health: MutableMapping[str, Health],
        on_change: Callable[[], None],
    ) -> None:
        """`orders`: those for backends that an earlier agent knew. `health`, by service name, is kept up to date for
        NAT services. `on_change` is called when there is something new to observe."""
        self._config = node.config
        self.sessions = session_keeper(node.config, forwarder, on_change)
        self.backends: BackendKeeper | None = None
        self._orders = orders
        if forwarder is not None and forwarder.nat is not None:
            made = node, forwarder.nat, forwarder, membership, self.sessions
            self.backends = BackendKeeper(*made, orders, health, on_change)
        report = self.sessions.table.report if self.sessions else None
        self.hand_overs = hand_over_keeper(node.config, forwarder, membership, report)

    @property
    def orders(self) -> Orders:
        """The orders for backends that the next agent must know; without NAT those of the one before."""
        return self.backends.orders if self.backends is not None else self._orders

    def observe(self, now: float) -> None:
        """Take over what other nodes publish. `now` is CLOCK_MONOTONIC seconds."""
        if self.backends is not None:
            self.backends.observe(now)

    def problems(self) -> tuple[str, ...]:
        """Return what the operator must know, one line each."""
        parts = (self.sessions, self.backends, self.hand_overs)
        return tuple(line for part in parts if part is not None for line in part.problems())

    def refusal(self, config: Config) -> str | None:
        """Return why another configuration must not replace this one now: it would end sessions. None if it may."""
        if self.sessions is None or not (key := ending_change(self._config, config)):
            return None
        if not (count := count_live(self.sessions.table)):
            return None
        return (
            f"{key}: its change ends the {count:,} sessions of this node, whose clients get a RST; `lbctl drain` hands "
            "them to other nodes first, `lbctl reload --force` ends them"
        )

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """Return what must run for as long as the agent does."""
        return [
            *((self.sessions.run(),) if self.sessions else ()),
            *(self.backends.tasks() if self.backends else ()),
            *(self.hand_overs.tasks() if self.hand_overs else ()),
        ]

    async def leave(self) -> None:
        """Wait until others have this node's sessions."""
        if self.hand_overs is not None:
            await self.hand_overs.leave()


def session_keeper(config: Config, forwarder: Forwarder | None, on_change: Callable[[], None]) -> SessionKeeper | None:
    """Return the keeper of this node's sessions; None if it has none. Raises BpfError without atomic operations."""
    maps = forwarder.datapath.maps if forwarder is not None else None
    if forwarder is None or maps is None or maps.sessions is None or maps.nat is None:
        return None
    names = {forwarder.map_writer.slot(service.name): service.name for _, service in config.nat_services}
    counters = maps.counters

    def refused() -> int:
        return sum(counters.of_slot(slot)[Counter.DROP_NAT_FULL.name.lower()] for slot in names)

    table = SessionTable(maps.sessions, maps.nat)
    for version in moved_families(maps.nat.conf(), config):
        if ended := close_selected(table, Selection(LIVE, client=EVERY[version])):
            log.warning("the IPv%d pool of NAT is another one: its %d sessions are closed", version, ended)
    watch = SessionWatch(table, maps.nat.open_events, maps.nat.set_watched)
    return SessionKeeper(table, watch, refused, names, on_change)
