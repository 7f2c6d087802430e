# SPDX-License-Identifier: Apache-2.0
"""What operators, and servers that hand their listeners over, request of the instances of a node's services.

Each request is carried out before its answer. Owns what is refused, and why; pool.py owns what a choice does.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent.errors import AgentError
from agent.instances import processes as proc
from agent.instances.choice import Active, Instance
from agent.instances.match import Added, ProcessId
from agent.instances.pool import Pool
from agent.model import MAX_WEIGHT
from agent.netlink.listener import listeners
from bpf.errors import BpfError


class Requests:
    """The requests to pools, by their names."""

    def __init__(
        self, pools: Mapping[str, Pool], lock: asyncio.Lock, save: Callable[[], None], on_change: Callable[[], None]
    ) -> None:
        """`lock` is held while a pool changes; `save` keeps the records. `on_change`: instances or problems differ."""
        self._pools, self._lock, self._save, self._on_change = pools, lock, save, on_change

    @property
    def _services(self) -> tuple[str, ...]:
        return tuple(name for pool in self._pools.values() for name in pool.services)

    async def switch(self, service: str | None, name: str) -> str:
        """Have new connections go to an instance while it listens; return the service. Raises AgentError."""
        pool = self._pool(service)
        if pool.config.policy != "standby":
            raise AgentError(f"the policy of {pool.services[0]} is {pool.config.policy}; use weight or drain there")
        one = _known(pool, name)
        if not one.cookies:
            raise AgentError(f"{name} does not listen; start it first")
        operator = pool.record.operator
        if name in operator.drained:
            raise AgentError(f"{name} is drained; undrain it first")
        if one.healthy is False and any(other.healthy for other in pool.instances):
            raise AgentError(f"{name} fails its check; another instance is healthy")
        first = pool.config.failback and next((i for i in pool.instances if i.cookies), one).name == name
        async with self._lock:
            pool.record = replace(pool.record, active=Active(name, one.cookies))
        return await self._change(pool, preferred=None if first else name)

    async def drain(self, service: str | None, name: str, drained: bool) -> str:
        """Have an instance get no new connections, or again. Raises AgentError."""
        pool = self._pool(service)
        _known(pool, name)
        before = pool.record.operator
        names = before.drained | {name} if drained else before.drained - {name}
        preferred = None if drained and before.preferred == name else before.preferred
        return await self._change(pool, drained=names, preferred=preferred)

    async def weight(self, service: str | None, name: str, weight: int) -> str:
        """Set an instance's weight, for the policy weighted. Raises AgentError."""
        pool = self._pool(service)
        if pool.config.policy != "weighted":
            raise AgentError(f"the policy of {pool.services[0]} is {pool.config.policy}, which has no weights")
        if not 0 <= weight <= MAX_WEIGHT:
            raise AgentError(f"{weight} is not a weight in 0-{MAX_WEIGHT}")
        _known(pool, name)
        return await self._change(pool, weights={**pool.record.operator.weights, name: weight})

    async def add(self, service: str | None, pid: int, name: str | None) -> str:
        """Make a process with its children an instance, after all others. Raises AgentError."""
        pool = self._pool(service)
        process = proc.process(pid)
        name = name or f"pid-{pid}"
        if process is None:
            raise AgentError(f"there is no process {pid}")
        if any(one.name == name for one in pool.instances):
            raise AgentError(f"there is an instance {name} already; choose another --name, or remove it first")
        if owner := next((one.name for one in pool.instances if pid in one.pids), None):
            raise AgentError(f"process {pid} belongs to instance {owner} already")
        added = (*pool.record.added, Added(name, ProcessId(pid, process.start)))
        async with self._lock:
            pool.record = replace(pool.record, added=added)
            await self._look_at(pool)
        return pool.services[0]

    async def hand_over(self, pid: int, copies: Sequence[socket.socket]) -> str:
        """Take listeners that a process hands over; return its instance's name. Raises AgentError."""
        process = proc.process(pid)
        if process is None:
            raise AgentError(
                f"process {pid} cannot be seen; install the drop-in instances-handed.conf (docs/instances.md)"
            )
        by_cookie = {proc.cookie_of(copy): copy for copy in copies}
        async with self._lock:
            for pool in self._pools.values():
                found = listeners(pool.port)
                known = {one.cookie: by_cookie[one.cookie] for one in found if one.cookie in by_cookie}
                giver = ProcessId(pid, process.start)
                if known and (name := await asyncio.to_thread(pool.hand_over, known, giver, found, time.monotonic())):
                    self._save()
                    self._on_change()
                    return name
        services = ", ".join(self._services)
        raise AgentError(f"process {pid} is no instance of {services}, or listens elsewhere: see match")

    async def remove(self, service: str | None, name: str) -> str:
        """Forget an instance that was added by hand. Raises AgentError."""
        pool = self._pool(service)
        if not any(one.name == name for one in pool.record.added):
            _known(pool, name)
            raise AgentError(f"{name} was found by instances.match; change that in the configuration, or drain it")
        async with self._lock:
            kept = tuple(one for one in pool.record.added if one.name != name)
            pool.record = replace(pool.record, added=kept)
            await self._look_at(pool)
        return pool.services[0]

    def _pool(self, service: str | None) -> Pool:
        if not self._pools:
            raise AgentError("no service of this node has instances; set services[].instances in the configuration")
        pools = [pool for pool in self._pools.values() if service in (None, *pool.services)]
        if not pools:
            raise AgentError(f"{service} is no service with instances; there are {', '.join(self._services)}")
        if len(pools) > 1:
            raise AgentError(f"several services have instances; name one by --service: {', '.join(self._services)}")
        return pools[0]

    async def _change(self, pool: Pool, **changes: Any) -> str:
        async with self._lock:
            pool.record = replace(pool.record, operator=replace(pool.record.operator, **changes))
            try:
                pool.choose()
            except BpfError as error:
                raise AgentError(str(error)) from None
            self._save()
        return pool.services[0]

    async def _look_at(self, pool: Pool) -> None:
        await asyncio.to_thread(pool.look, listeners(pool.port), time.monotonic())
        self._save()
        self._on_change()


def _known(pool: Pool, name: str) -> Instance:
    for one in pool.instances:
        if one.name == name:
            return one
    known = ", ".join(one.name for one in pool.instances)
    raise AgentError(f"{name} is no instance of {pool.services[0]}; it has {known or 'none'}")
