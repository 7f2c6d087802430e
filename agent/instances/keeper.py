# SPDX-License-Identifier: Apache-2.0
"""The instances of all services of a node: the loop that looks for them, and the operator's requests.

It costs nothing where no service has `instances`: then only what an earlier configuration left is removed, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent import json_value, private_file
from agent.config.schema import Config
from agent.config.service import ServiceConfig
from agent.errors import AgentError
from agent.instances import processes as proc
from agent.instances.check import InstanceChecks, can_check
from agent.instances.choice import Active, Instance
from agent.instances.end_watch import EndWatch
from agent.instances.group import release_groups
from agent.instances.hand_over import serve
from agent.instances.match import Added, ProcessId
from agent.instances.pool import Pool
from agent.instances.record import Record
from agent.instances.status import instance_status
from agent.instances.steering import ServiceSteering
from agent.netlink.listener import listeners
from agent.problem import Problem, ProblemLine
from bpf.errors import BpfError

log = logging.getLogger("anylb")

LOOK_S = 0.1
"""How long a new listener waits for its first connection at most. A closed one costs no wait: the program knows. Nor
does a process that ends: that is an event."""
_MAX_BYTES = 1 << 20
MAX_WEIGHT = 10_000

NOT_LOOKED_FOR = Problem(
    "{service}: instances are not looked for: {error}",
    "load the modules tcp_diag and udp_diag; the agent tries again",
    "The kernel does not list listeners. The last choice stays in force, and new instances get no connections.",
)
NOT_SAVED = Problem(
    "{path}: {error}: a restarted agent will not know the order of instances",
    "make room there",
    "The choice in force is not affected.",
)


@dataclass(frozen=True, slots=True)
class InstancePaths:
    """Where the pins of choice and steering are, the record for the next agent, the socket on which servers hand their
    listeners over, and compiled programs."""

    pins: Path
    steering: Path
    record: Path
    socket: Path
    programs: Path


class InstanceKeeper:
    """The pools of a configuration, one for each port."""

    def __init__(self, config: Config, paths: InstancePaths, on_change: Callable[[], None]) -> None:
        """`on_change` is called when the problems differ."""
        self._paths, self._on_change = paths, on_change
        self._lock = asyncio.Lock()
        """A look goes on in a thread, and nothing else touches its pool meanwhile."""
        shared: dict[str, list[ServiceConfig]] = {}
        for service in config.services:
            if service.instances is not None:
                shared.setdefault(service.pool, []).append(service)
        records = _load(paths.record) if shared else {}
        self._steering = ServiceSteering(config.services, paths.steering, paths.programs)
        self._pools = {
            name: Pool(services, records.get(name, Record()), self._steering, paths.pins, paths.programs)
            for name, services in shared.items()
        }
        self._checks = {
            name: InstanceChecks(services[0], self._pools[name].reach)
            for name, services in shared.items()
            if can_check(services[0])
        }
        self._saved = {name: pool.record for name, pool in self._pools.items()}
        self._watch = EndWatch()
        self._fault: ProblemLine | None = None

    @property
    def problems(self) -> tuple[ProblemLine, ...]:
        """What the operator must know, one line each."""
        found = [line for pool in self._pools.values() for line in pool.problems]
        return (*found, self._fault) if self._fault else tuple(found)

    async def run(self) -> None:
        """Look for instances, forever."""
        await asyncio.to_thread(self._release_others)
        try:
            async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
                for name, checks in self._checks.items():
                    tasks.create_task(self._check_forever(self._pools[name], checks))
                if self._pools:
                    await stack.enter_async_context(serve(self._paths.socket, self.hand_over))
                while self._pools:
                    async with self._lock:
                        await self._look()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_S):
                            await self._watch.ended.wait()
        finally:
            self._watch.close()
            for pool in self._pools.values():
                pool.close()
            self._steering.close()

    async def _look(self) -> None:
        before, now, ended = self.problems, time.monotonic(), self._watch.ended.is_set()
        self._watch.ended.clear()
        self._fault = None
        for name, pool in self._pools.items():
            try:
                found = listeners(pool.port)
            except OSError as error:
                self._fault = NOT_LOOKED_FOR.line(service=pool.services[0], error=error.strerror or error)
                continue
            if ended or pool.needs_look(found, now):
                instances = pool.instances
                await asyncio.to_thread(pool.look, found, now)
                if name in self._checks and pool.instances != instances:
                    self._checks[name].wake.set()
        self._watch.watch(one.pids[0] for pool in self._pools.values() for one in pool.instances)
        self._save()
        if self.problems != before:
            self._on_change()

    async def _check_forever(self, pool: Pool, checks: InstanceChecks) -> None:
        while True:
            checks.wake.clear()
            await checks.ask(pool.instances)
            async with self._lock:
                healthy = checks.healthy(pool.instances)
                for one in pool.instances:
                    if one.name in healthy and healthy[one.name] != one.healthy:
                        state = "healthy" if healthy[one.name] else "unhealthy"
                        log.info("%s: instance %s is %s: %s", pool.services[0], one.name, state, checks.why(one.name))
                with contextlib.suppress(BpfError):  # the next look reports it
                    pool.judge(healthy)
                self._save()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(checks.interval_s):
                    await checks.wake.wait()

    def _release_others(self) -> None:
        kept = [pool.groups for pool in self._pools.values()]
        try:
            if release_groups(self._paths.pins, kept):
                log.info("removed the choice among instances that are no longer configured")
            if self._steering.release():
                log.info("removed the steering to servers elsewhere, which is no longer configured")
        except (BpfError, OSError, ValueError) as error:
            log.error("what an earlier configuration left in %s cannot be removed: %s", self._paths.pins, error)

    def _save(self) -> None:
        records = {name: pool.record for name, pool in self._pools.items()}
        if records == self._saved:
            return
        try:
            content = {name: record.to_json() for name, record in records.items()}
            private_file.write(self._paths.record, json.dumps(content))
        except OSError as error:
            self._fault = NOT_SAVED.line(path=self._paths.record, error=error.strerror)
        else:
            self._saved = records

    # --- the operator ----------------------------------------------------------------------------------------------

    def status(self, service: str) -> dict[str, Any] | None:
        """Return the instances of a service; None if it has no such setting."""
        pool = next((pool for pool in self._pools.values() if service in pool.services), None)
        if pool is None:
            return None
        return {
            "policy": pool.config.policy,
            "preferred": pool.record.operator.preferred,
            "instances": [
                instance_status(one, pool.decision, pool.record, self._why(pool, one)) for one in pool.instances
            ],
        }

    def _why(self, pool: Pool, one: Instance) -> str:
        checks = self._checks.get(pool.name)
        return checks.why(one.name) if checks and one.cookies else ""

    @property
    def services(self) -> tuple[str, ...]:
        """The names of the services with instances."""
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
        raise AgentError(f"process {pid} is no instance of {', '.join(self.services)}, or listens elsewhere: see match")

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
            raise AgentError(f"{service} is no service with instances; there are {', '.join(self.services)}")
        if len(pools) > 1:
            raise AgentError(f"several services have instances; name one by --service: {', '.join(self.services)}")
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


def _load(path: Path) -> dict[str, Record]:
    """Return the records that an earlier agent left, by pool; none if there is no file or it cannot be read."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        content = json_value.decode(private_file.read_own(path, _MAX_BYTES))
        return {str(name): Record.from_json(record) for name, record in content.items()}
    return {}
