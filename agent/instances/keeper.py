# SPDX-License-Identifier: Apache-2.0
"""The instances of all services of a node: the loop that looks for them, checks them and saves what was chosen.

It costs nothing where no service has `instances`: then only what an earlier configuration left is removed, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import json_value, private_file
from agent.config.schema import Config
from agent.config.service import ServiceConfig
from agent.instances.check import InstanceChecks, can_check
from agent.instances.choice import Instance
from agent.instances.end_watch import EndWatch
from agent.instances.group import release_groups
from agent.instances.hand_over import serve
from agent.instances.pool import Pool
from agent.instances.record import Record
from agent.instances.request import Requests
from agent.instances.status import instance_status
from agent.instances.steering import ServiceSteering
from agent.netlink.listener import listeners
from agent.problem import Problem, ProblemLine
from bpf.errors import BpfError

log = logging.getLogger("anylb")

LOOK_S = 0.1
"""How long a new listener waits for its first connection at most. A closed one costs no wait: the program knows. Nor
does a process that ends: that is an event."""
PINS_S = 0.5
"""The interval of checks whether what must outlive this agent is pinned."""
_MAX_BYTES = 1 << 20

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
NOT_PINNED = Problem(
    "the pins of instances were removed, and cannot be made again: {error}",
    "mount -t bpf bpf /sys/fs/bpf if nothing is mounted there; the agent tries again within seconds",
    "Connections are given to instances for as long as this agent runs. Without the pins the next agent does not find "
    "the choice, and connections that are steered to servers elsewhere are refused until it has started.",
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
        self.requests = Requests(self._pools, self._lock, self._save, on_change)
        self._watch = EndWatch()
        self._fault: ProblemLine | None = None
        self._unpinned: ProblemLine | None = None
        self._next_pins = 0.0

    @property
    def problems(self) -> tuple[ProblemLine, ...]:
        """What the operator must know, one line each."""
        found = [line for pool in self._pools.values() for line in pool.problems]
        return (*found, *(line for line in (self._fault, self._unpinned) if line))

    async def run(self) -> None:
        """Look for instances, forever."""
        await asyncio.to_thread(self._release_others)
        try:
            async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
                for name, checks in self._checks.items():
                    tasks.create_task(self._check_forever(self._pools[name], checks))
                if self._pools:
                    await stack.enter_async_context(serve(self._paths.socket, self.requests.hand_over))
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
        if now >= self._next_pins:
            self._next_pins, self._unpinned = now + PINS_S, self._keep_pinned()
        self._watch.watch(one.pids[0] for pool in self._pools.values() for one in pool.instances)
        self._save()
        if self.problems != before:
            self._on_change()

    def _keep_pinned(self) -> ProblemLine | None:
        """Have choice and steering outlive this agent; return why that cannot be."""
        try:
            if self._steering.keep_pinned() + sum(pool.keep_pinned() for pool in self._pools.values()):
                both = f"{self._paths.pins} and {self._paths.steering}"
                log.warning("the pins of instances were removed, and were made again: leave %s alone", both)
        except (BpfError, OSError) as error:
            line = NOT_PINNED.line(error=error)
            if line != self._unpinned:
                log.error("%s", line)
            return line
        return None

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

    # What is known of them

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


def _load(path: Path) -> dict[str, Record]:
    """Return the records that an earlier agent left, by pool; none if there is no file or it cannot be read."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        content = json_value.decode(private_file.read_own(path, _MAX_BYTES))
        return {str(name): Record.from_json(record) for name, record in content.items()}
    return {}
