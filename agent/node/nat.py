# SPDX-License-Identifier: Apache-2.0
"""NAT on one node: its sessions, its backends, and the hand-over of sessions, each with a keeper of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine, MutableMapping
from ipaddress import IPv4Address
from typing import Any, Final

from agent.config.nat import used_part
from agent.config.schema import Config
from agent.health.rise_fall import Health
from agent.nat.change import closed_at_start, ending_change, gives_former
from agent.nat.orders import Orders
from agent.node.backend_keeper import BackendKeeper
from agent.node.forwarder import Forwarder
from agent.node.membership import Membership
from agent.node.plan import ThisNode
from agent.node.session_hand_over import session_hand_over
from agent.problem import ProblemLine
from agent.sessions.former import FormerSessions
from agent.sessions.keeper import SessionKeeper
from agent.sessions.listing import close_selected, count_live, count_live_by_service
from agent.sessions.selection import Selection
from agent.sessions.session_table import SessionTable
from agent.sessions.tag_array import LIVE
from agent.sessions.watch import SessionWatch
from bpf.layout.counter import Counter

log = logging.getLogger("anylb")

COPIED_S: Final = 10.0
"""How long a change of the configuration waits for the copy of the one before: 0.6 s with 4 million sessions."""
RETRY_S: Final = 0.05


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
        self._config, self._membership = node.config, membership
        self.sessions = session_keeper(node.config, forwarder, on_change)
        self._datapath = forwarder.datapath if forwarder is not None else None
        self.backends: BackendKeeper | None = None
        self._orders = orders
        if forwarder is not None and forwarder.nat is not None:
            made = node, forwarder.nat, forwarder, membership, self.sessions
            self.backends = BackendKeeper(*made, orders, health, on_change)
        report = self.sessions.table.report if self.sessions else None
        self.hand_overs = session_hand_over(node.config, forwarder, membership, report)

    @property
    def orders(self) -> Orders:
        """The orders for backends that the next agent must know; without NAT those of the one before."""
        return self.backends.orders if self.backends is not None else self._orders

    def observe(self, now: float) -> None:
        """Take over what other nodes publish. `now` is CLOCK_MONOTONIC seconds."""
        if self.backends is not None:
            self.backends.observe(now)
        self.publish_former()

    def problems(self) -> tuple[ProblemLine, ...]:
        """Return what the operator must know, one line each."""
        parts = (self.sessions, self.backends, self.hand_overs)
        return tuple(line for part in parts if part is not None for line in part.problems())

    def refusal(self, config: Config) -> str | None:
        """Return why another configuration must not replace this one now: it would end sessions. None if it may. For a
        thread: it may read all sessions, and wait until they are copied."""
        if self.sessions is None or (ending := ending_change(self._config, config)) is None:
            return None
        chosen = [Selection(LIVE, pool=pool) for pool in ending.pools]
        if ending.sessions:  # another number and another pool at once: the number ends all
            chosen = [Selection(LIVE, began_among=ending.sessions)]
        if not self._has_sessions_within(COPIED_S):
            return (
                f"{ending.key}: sessions are still being copied for the change before, so it is not known which ones "
                "this change ends; try again in a moment, `lbctl reload --force` does not ask"
            )
        if not (count := count_live(self.sessions.table, chosen)):
            return None
        of_pools = f" with addresses of {' and '.join(map(str, ending.pools))}" if ending.pools else ""
        return (
            f"{ending.key}: its change ends {count:,} sessions of this node{of_pools}, whose clients get a RST; "
            f"{ending.instead}, `lbctl reload --force` ends them"
        )

    def _has_sessions_within(self, seconds: float) -> bool:
        """Wait for so long until the maps have all sessions of this node; return whether they have."""
        deadline = time.monotonic() + seconds
        while self._datapath is not None and not self._datapath.has_sessions:
            if time.monotonic() >= deadline:
                return False
            time.sleep(RETRY_S)
        return True

    def held(self) -> dict[str, int]:
        """Return how many sessions this node has, by the name of their service. For a thread: it reads all of them."""
        if self.sessions is None:
            return {}
        counts = count_live_by_service(self.sessions.table)
        return {name: counts.get(slot, 0) for slot, name in self.sessions.service_names.items()}

    @property
    def former(self) -> FormerSessions | None:
        """What is left here of the former pool, or number of sessions; None if there is none."""
        return self.sessions.former if self.sessions is not None else None

    @property
    def former_known(self) -> bool:
        """Whether this node knows if it has such sessions: until then what is announced stays so."""
        return self.former is None or self.former.in_use is not None

    def publish_former(self) -> bool:
        """Publish whether this node has such sessions; return whether that is known, or will not be in a moment. If so,
        this node may have some; else what the agent before has published is to stay until then."""
        if not self.former_known and self._datapath is not None and self._datapath.has_sessions:
            return False
        if self.former is not None:
            self._membership.publish_former(self.former.in_use is not False)
        return True

    def former_elsewhere(self) -> tuple[IPv4Address, ...]:
        """Return the other nodes that have such sessions."""
        if self.former is None:
            return ()
        states = self._membership.present_states().items()
        return tuple(sorted(address for address, state in states if state.nat is not None and state.nat.former))

    def former_in_use(self) -> bool:
        """Whether any node has such sessions, or makes some, as far as is known."""
        return self.former is not None and (self.former.in_use is not False or bool(self.former_elsewhere()))

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
    nat = maps.nat
    pools, numbers = closed_at_start(nat.conf(), config)
    datapath = forwarder.datapath

    def close_unserved() -> None:
        for pool in pools:
            if ended := close_selected(table, Selection(LIVE, pool=pool)):
                log.warning("%s is no pool of NAT any more: its %d sessions are closed", pool, ended)
        if numbers and (ended := close_selected(table, Selection(LIVE, began_among=numbers))):
            log.warning("nat.sessions is another number, without the former one: %d sessions are closed", ended)

    at_first: Callable[[], None] = close_unserved
    if datapath.has_sessions:  # now: the conf still has what was served, if this agent is killed meanwhile
        close_unserved()
        at_first = lambda: None  # noqa: E731
    former = None
    if config.nat is not None and (config.former_pools or config.former_sessions):
        former_pools = tuple(used_part(pool, config.nat.sessions) for pool in config.former_pools)
        gives = lambda: gives_former(nat.conf(), config)  # noqa: E731
        former = FormerSessions(table, gives, former_pools, config.former_sessions)
    watch = SessionWatch(table, maps.nat.open_events, maps.nat.set_watched)
    complete = lambda: datapath.has_sessions  # noqa: E731
    return SessionKeeper(table, watch, refused, names, on_change, former, complete, at_first)
