# SPDX-License-Identifier: Apache-2.0
"""The hand-over of NAT sessions on this node: brings the chains, the channel and the exchange together. I/O.

handover/exchange.py does the work. Before rows are written this node asks for those that it gets; once they are, it
sends those that it gives up. Each second it looks for sessions of rows of other owners.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable
from ipaddress import IPv4Address
from typing import Any, Final

from agent.config.schema import Config
from agent.handover.exchange import Count, Exchange
from agent.handover.item import Codec, Origin, Slots
from agent.handover.record import backend_key, service_key
from agent.handover.row_move import Chains
from agent.handover.session_store import SessionStore
from agent.nat.change import served_sessions
from agent.node.forwarder import Forwarder
from agent.node.membership import Membership
from agent.problem import Problem, ProblemLine
from agent.sessions.cause import OnChange
from bpf.layout.nat import NAT_ROWS
from bpf.layout.service import Protocol
from bpf.maps.maps import Maps

SWEEP_S: Final = 1.0
CHANGING_S: Final = 0.25
"""The interval of looks while rows change, and `CHANGED_S` after."""
CHANGED_S: Final = 5.0
LEAVE_S: Final = 1.0
"""For so long a node that leaves waits for others to ask for its sessions."""
RETRY_S: Final = 0.02
IDLE_S: Final = 0.3
"""For so long nothing is asked or sent, once all is handed over."""
SHOWN_S: Final = 60.0
"""How long sessions that could not be handed over are among the problems."""

NOT_TAKEN = Problem(
    "sessions of {node} are not taken: {fault}",
    "install the same release on all nodes, with the same nat",
    "What it hands over cannot be read here. Its sessions go on while it lives, and break when it leaves.",
)
OVERDUE = Problem(
    "{node} has not handed its sessions over",
    "see whether its tables agree with the others' (`lbctl status`), and whether its agent runs",
    "This node owns rows whose sessions that one still has, and sends their packets there meanwhile.",
)
UNKNOWN_BACKENDS = Problem(
    "sessions of other nodes are with backends that this node does not know, so they stay there",
    "give all nodes the same services and backends",
    "Nothing is lost while the other nodes live. Usual while lb.yml is changed on one node after the other.",
)


def session_hand_over(
    config: Config, forwarder: Forwarder | None, membership: Membership, on_change: OnChange | None
) -> SessionHandOver | None:
    """Return the keeper of hand-overs, which reports what it changes; None without NAT."""
    maps = forwarder.datapath.maps if forwarder is not None else None
    if forwarder is None or maps is None or maps.sessions is None or maps.nat is None or config.nat is None:
        return None
    return SessionHandOver(config, forwarder, membership, maps, on_change)


class SessionHandOver:
    """The hand-overs of this node."""

    def __init__(
        self, config: Config, forwarder: Forwarder, membership: Membership, maps: Maps, on_change: OnChange | None
    ) -> None:
        assert config.nat is not None
        assert maps.nat is not None
        assert maps.sessions is not None
        self._config, self._forwarder, self._membership = config, forwarder, membership
        # In one order everywhere: it decides between two sessions of a slot that differ in nothing else.
        every = [Origin(pool, number) for pool in config.pools for number in served_sessions(config)]
        every.sort(key=lambda one: (int(one.pool[0]), one.sessions))
        origins = {version: [one for one in every if one.pool.version == version] for version in (4, 6)}
        self._store = SessionStore(maps.sessions, origins, maps.nat.loads)
        self._store.on_change = on_change
        codec = Codec(Slots(NAT_ROWS, origins))
        self.exchange = Exchange(int(membership.own), self._store, codec, maps.nat.pulls, self._stream)
        self._store.services = {
            service_key(one.vip, one.port_number, Protocol[one.protocol.upper()]): forwarder.map_writer.slot(one.name)
            for _, one in config.nat_services
        }
        self._indexes: dict[Any, int] = {}
        self._arrived: dict[int, list[bytes]] = {}
        self._isolated = False
        self._active_at = self._changed_at = float("-inf")
        self._declined = 0
        self._problems: dict[ProblemLine, float] = {}
        """Each with the time until which it is shown."""
        forwarder.map_writer.before_nat_rows = self._begin
        forwarder.after_tables = self.exchange.finish
        membership.on_item, membership.on_session = self._receive, lambda address: self.exchange.forget(int(address))

    @property
    def counters(self) -> dict[str, int]:
        """What became of sessions, by `Count`."""
        return {count.value: self.exchange.counters[count] for count in Count}

    def problems(self) -> tuple[ProblemLine, ...]:
        """Return why sessions were not handed over, one line each, with the next step."""
        late = (
            OVERDUE.line(node=IPv4Address(node))
            for node in sorted(self.exchange.overdue(time.monotonic()) & self._answering())
        )
        return (*dict.fromkeys((*self._faults(), *self._problems)), *late)

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """Return what must run for as long as the agent does."""
        return [self._run()]

    async def leave(self) -> None:
        """Wait until others have this node's sessions: they ask for them once they know that it leaves."""
        now = time.monotonic()
        self.exchange.leave()
        self._active_at = now
        while time.monotonic() < now + LEAVE_S:
            await asyncio.sleep(0.05)
            idle = all(self._membership.is_idle(IPv4Address(node)) for node in self._answering())
            if idle and time.monotonic() - self._active_at >= IDLE_S:
                return

    async def _run(self) -> None:
        while True:
            now = time.monotonic()
            was_isolated, self._isolated = self._isolated, self._membership.isolated
            answering = self._answering()
            if was_isolated and not self._isolated:
                self.exchange.pull_all(answering, now)
            self.exchange.await_answers(now)
            if self._forwarder.datapath.has_sessions:
                self.exchange.sweep([node for node in answering if self._membership.is_idle(IPv4Address(node))])
            self._note_losses(now)
            await asyncio.sleep(CHANGING_S if now - self._changed_at < CHANGED_S else SWEEP_S)

    def _begin(self, chains: Chains) -> None:
        now = time.monotonic()
        self._changed_at = now
        self.exchange.begin(chains, self._answering(), now)

    def _answering(self) -> set[int]:
        """Return the nodes that answer and do NAT."""
        return {int(node) for node, one in self._membership.present_states().items() if one.nat is not None}

    def _stream(self, node: int, items: Iterable[bytes]) -> None:
        self._active_at = time.monotonic()
        self._membership.stream(IPv4Address(node), items)

    def _receive(self, address: IPv4Address, item: bytes) -> None:
        """Collect what has arrived: many records are written at once."""
        if not self._arrived:
            asyncio.get_running_loop().call_soon(self._take_arrived)
        self._arrived.setdefault(int(address), []).append(item)

    def _take_arrived(self) -> None:
        """Take it, once this node's own sessions are in these maps: until then no slot is known to be free."""
        if not self._forwarder.datapath.has_sessions:
            asyncio.get_running_loop().call_later(RETRY_S, self._take_arrived)
            return
        now, arrived = time.monotonic(), self._arrived
        self._arrived, self._active_at = {}, now
        indexes = self._forwarder.nat.indexes if self._forwarder.nat is not None else {}
        if indexes != self._indexes:
            self._indexes = dict(indexes)
            self._store.backends = {backend_key(*place): index for place, index in indexes.items()}
        for node, items in arrived.items():
            self.exchange.receive(node, items, now)

    def _faults(self) -> list[ProblemLine]:
        faults = sorted(self.exchange.faults.items())
        return [NOT_TAKEN.line(node=IPv4Address(node), fault=fault) for node, fault in faults]

    def _note_losses(self, now: float) -> None:
        """Keep for a while what went wrong since the last time: what cannot be taken is sent again sooner."""
        counters = self.exchange.counters
        self._problems |= dict.fromkeys(self._faults(), now + SHOWN_S)
        if counters[Count.DECLINED] > self._declined:
            self._problems[UNKNOWN_BACKENDS.line()] = now + SHOWN_S
        self._declined = counters[Count.DECLINED]
        self._problems = {line: until for line, until in self._problems.items() if now < until}
