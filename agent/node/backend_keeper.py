# SPDX-License-Identifier: Apache-2.0
"""The backends of NAT services on this node: what is believed of them, and what follows. I/O.

nat/belief.py decides who checks a backend, nat/backend_health.py checks, nat/orders.py has the operators' orders. From
these follow the backends that new sessions get, the health of NAT services on this node (healthy as long as some
backend takes new sessions), what this node publishes, and which sessions are reset.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, MutableMapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from agent.address import Address
from agent.channel.nat_state import NatState
from agent.errors import AgentError
from agent.health.rise_fall import Health
from agent.model import NAT_KEY, State
from agent.nat.backend import BackendKey
from agent.nat.backend_health import BackendHealth
from agent.nat.belief import assigned
from agent.nat.orders import Orders, merged, with_order
from agent.nat.writer import NatWriter
from agent.node.forwarder import Forwarder
from agent.node.membership import Membership
from agent.node.plan import ThisNode
from agent.problem import Problem, ProblemLine
from agent.sessions.keeper import SessionKeeper
from agent.sessions.listing import close_selected
from agent.sessions.selection import Selection
from agent.sessions.session_table import SessionTable
from agent.sessions.tag_array import LIVE
from bpf.layout.session import TICK_SHIFT

log = logging.getLogger("anylb")

COUNT_S: Final = 2.0
"""How often the counts of sessions with drained backends are published: each time all nodes get this node's state."""
RESET_S: Final = 1.0
"""How often sessions with backends that are down are looked for: also those that other nodes have handed over."""

BACKENDS_DOWN = Problem(
    "service {service}: {what}",
    "{why}; see its server, and the network to it",
    "By the checks of the nodes that do NAT. New sessions choose other backends; those of the dead one time out.",
)


class BackendKeeper:
    """What this node knows of the backends."""

    def __init__(
        self,
        node: ThisNode,
        writer: NatWriter,
        forwarder: Forwarder,
        membership: Membership,
        sessions: SessionKeeper | None,
        orders: Orders,
        health: MutableMapping[str, Health],
        on_change: Callable[[], None],
    ) -> None:
        """`orders`: those that an earlier agent knew. `health`, by service name, is kept up to date for NAT services.
        `on_change` is called when `observe` has something new to find."""
        self.orders = orders
        self._node, self._writer, self._forwarder, self._membership = node, writer, forwarder, membership
        self._sessions, self._service_health, self._on_change = sessions, health, on_change
        self._services = {service.name: service for _, service in node.config.nat_services}
        before = {key for keys in writer.usable.values() for key in keys}
        self.backends = BackendHealth(node.config, _sources(node), before, on_change)
        self._keys = {
            service.name: [BackendKey(service.key, one.address, one.port) for one in service.backends]
            for service in self._services.values()
        }
        self._weights = {
            BackendKey(s.key, one.address, one.port): one.weight for s in self._services.values() for one in s.backends
        }
        self._seen: tuple[object, ...] | None = None
        """What the others published when their results were last counted."""
        self._counts: Mapping[int, int] = {}
        self._counted_at = float("-inf")

    # What is believed

    def observe(self, now: float) -> None:
        """Take over what the others publish, and carry out what follows. `now` is CLOCK_MONOTONIC seconds."""
        states = self._states()
        if states != self._seen:
            self._seen = states
            self._follow(states, now)
        if now - self._counted_at >= COUNT_S:
            self._counts, self._counted_at = self._drained_counts(), now
        self._forwarder.want_backends({name: self.taking(name) for name in self._services})
        for name in self._services:
            self._service_health[name] = self._of_service(name, now)
        orders = {number: order._replace(sessions=self._counts.get(number, 0)) for number, order in self.orders.items()}
        self._membership.publish_backends(self.backends.results(), orders)

    def _states(self) -> tuple[tuple[IPv4Address, NatState], ...]:
        """Return what the nodes that do NAT publish, and this one: those whose agents answer and that take sessions."""
        up = {
            member.address
            for member in self._membership.view.members
            if (share := member.share(NAT_KEY)) is not None and share.state is State.UP
        }
        states = [(address, state.nat) for address, state in self._membership.present_states().items() if state.nat]
        own = self._membership.own_nat
        found = [(address, nat) for address, nat in states if address in up]
        return (*found, *([(self._node.address, replace(own, results={}))] if own is not None else ()))

    def _follow(self, states: Sequence[tuple[IPv4Address, NatState]], now: float) -> None:
        votes: dict[int, list[bool]] = {}
        for address, nat in states:
            for number, good in nat.results.items() if address != self._node.address else ():
                votes.setdefault(number, []).append(good)
        checkers = {address for address, nat in states if nat.state is State.UP}
        mine = assigned(self._node.address, checkers, list(self.backends.numbers.values()))
        self.backends.follow(mine, votes, now)
        self.orders = merged(self.orders, [nat.orders for _, nat in states])

    def is_drained(self, key: BackendKey) -> bool:
        """Whether an operator drained a backend, on any node."""
        order = self.orders.get(self.backends.numbers[key])
        return order is not None and order.drained

    def _answering(self, name: str) -> list[BackendKey]:
        """Return the backends of a service that take new sessions because they are healthy."""
        return [key for key in self._open(name) if self.backends.health[key].healthy]

    def _open(self, name: str) -> list[BackendKey]:
        """Return the backends of a service that may take new sessions of this node."""
        keys = (key for key in self._keys[name] if self._weights[key] and not self.is_drained(key))
        return [key for key in keys if self._writer.reaches(key)]

    def taking(self, name: str) -> frozenset[BackendKey]:
        """Return the backends of a service that get new sessions: with `when_unhealthy: fail_open` all that are not
        drained, if none answers."""
        answering = self._answering(name)
        fails_open = not answering and self._services[name].when_unhealthy == "fail_open"
        return frozenset(self._open(name) if fails_open else answering)

    def _of_service(self, name: str, now: float) -> Health:
        before, keys = self._service_health[name], self._open(name)
        count = len(self._answering(name))
        if keys and not any(self.backends.is_known(key) for key in keys):
            return before
        why = f"{count} of {len(keys)} backends answer" if keys else "no backend may take new sessions"
        if before.healthy == bool(count):
            return before if before.why == why else replace(before, streak=0, why=why)
        log.info("%s: %s, %s", name, "healthy" if count else "unhealthy", why)
        self._on_change()
        return Health(bool(count), 0, now, why)

    def problems(self) -> list[ProblemLine]:
        """Return a line for each service with backends that are down."""
        lines = []
        for name in self._services:
            down = [key for key in self._open(name) if self.backends.is_known(key)]
            down = [key for key in down if not self.backends.health[key].healthy]
            if down:
                what = f"backend {down[0]} is down"
                what = what if len(down) == 1 else f"{len(down)} backends are down, the first is {down[0]}"
                lines.append(BACKENDS_DOWN.line(service=name, what=what, why=self.backends.health[down[0]].why))
        return lines

    # Orders

    def set_drained(self, service: str, backend: str, drained: bool) -> None:
        """Drain a backend of a service on all nodes, or take that back. Raises AgentError: there is no such one."""
        key = self._key(service, backend)
        if self._membership.own_nat is None:
            raise AgentError(
                "this node does no NAT (nat.weight is 0), and its orders reach no other: use one that does"
            )
        self.orders = with_order(self.orders, [self.backends.numbers[key]], drained)
        self._counted_at = float("-inf")
        self.observe(time.monotonic())
        self._on_change()

    def _key(self, service: str, backend: str) -> BackendKey:
        if service not in self._services:
            known = ", ".join(self._services) or "none"
            raise AgentError(f"{service[:63]} is no service of mode nat; those are: {known}")
        found = next((key for key in self._keys[service] if str(key) == backend), None)
        if found is None:
            known = ", ".join(map(str, self._keys[service]))
            raise AgentError(f"{backend[:64]} is no backend of {service}; it has {known}")
        return found

    def _drained_counts(self) -> dict[int, int]:
        keys = [key for keys in self._keys.values() for key in keys if self.is_drained(key)]
        return {self.backends.numbers[key]: self._writer.active(key) for key in keys}

    def status(self, service: str) -> list[dict[str, Any]]:
        """Return the backends of a service as this node sees them; `elsewhere` counts the sessions with a drained one
        on all other nodes that answer."""
        found = []
        for key in self._keys.get(service, ()):
            health, number = self.backends.health[key], self.backends.numbers[key]
            states = [state.nat for state in self._membership.present_states().values() if state.nat]
            others = [order.sessions for nat in states if (order := nat.orders.get(number)) is not None]
            found.append(
                {
                    "address": str(key),
                    "weight": self._weights[key],
                    "healthy": health.healthy,
                    "why": health.why,
                    "checked_here": self.backends.checks_itself(key),
                    "drained": self.is_drained(key),
                    "sessions": self._writer.active(key),
                    "elsewhere": sum(others) if self.is_drained(key) else None,
                }
            )
        return found

    # Tasks

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """Return what must run for as long as the agent does."""
        return [self.backends.run(), *([self._reset_forever(self._sessions)] if self._sessions is not None else [])]

    async def _reset_forever(self, sessions: SessionKeeper) -> None:
        """Close the sessions that a backend had when it went down: their clients are reset at their next packet.

        Those that began later are of nodes that reach it, or of a service that fails open.
        """
        while True:
            await asyncio.sleep(RESET_S)
            await self._reset(sessions.table)

    async def _reset(self, table: SessionTable) -> None:
        for name, service in self._services.items():
            slots = frozenset([self._forwarder.map_writer.slot(name)])
            for key in self._down(name) if service.on_down == "reset" else ():
                began = int(self.backends.health[key].since * 1e9) >> TICK_SHIFT
                chosen = Selection(LIVE, slots, backend=key.address, backend_port=key.port, created_by=began)
                if closed := await asyncio.to_thread(close_selected, table, chosen):
                    log.info("%s: reset %d sessions with %s, which is down", name, closed, key)

    def _down(self, name: str) -> list[BackendKey]:
        """Return the backends that are down and have sessions."""
        keys = (key for key in self._keys[name] if self.backends.is_known(key))
        return [key for key in keys if not self.backends.health[key].healthy and self._writer.active(key)]


def _sources(node: ThisNode) -> dict[int, Address]:
    """Return the addresses that checks come from. Without an IPv6 address of its own the kernel chooses one."""
    return {4: node.address, 6: node.address6 or node.next_hop6 or IPv6Address("::")}
