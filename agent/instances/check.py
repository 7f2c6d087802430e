# SPDX-License-Identifier: Apache-2.0
"""The health of each instance, by the check of its service: which of them answered last, and how.

Each probe reaches one given instance, though all share an address and port (`Pool.reach`). One that fails is passed
over at once, since another takes its place; `rise` good answers bring it back. One that is new needs a single one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial

from agent.config.instances import Target
from agent.config.service import ServiceConfig
from agent.health.connection import Reach
from agent.health.probe import Probe, probe_of
from agent.health.rise_fall import Health, judge
from agent.instances.choice import Instance


def can_check(service: ServiceConfig) -> bool:
    """Return whether the service's check can ask each instance: by the port that they share, or by a program."""
    target = service.health_target
    if target is None:
        return True
    if (service.health.type == "udp") != (service.protocol == "udp"):
        return False
    ports = {service.port_number, service.steer.port if isinstance(service.steer, Target) else service.port_number}
    return service.port == "any" or target[1] in ports


class InstanceChecks:
    """The last results of a service's instances."""

    def __init__(
        self, service: ServiceConfig, reach: Callable[[Instance, int], AbstractContextManager[object]]
    ) -> None:
        """`reach(instance, port)` has a connection from a source port reach an instance."""
        self._name, self._target, self._check, self._reach = service.name, service.health_target, service.health, reach
        self._probes: dict[tuple[str, int], Probe] = {}
        """By instance and process: the program of one check has ended before the next one starts."""
        self.wake = asyncio.Event()
        """Set when instances have come or gone: those that are new are asked at once."""
        self._health: dict[str, tuple[frozenset[int], Health]] = {}
        """By name, with the listeners that the instance had: a restarted one is new."""

    @property
    def interval_s(self) -> float:
        """The time between two checks of an instance."""
        return self._check.interval_s

    def why(self, name: str) -> str:
        """Return an instance's last answer."""
        return self._health[name][1].why if name in self._health else ""

    def healthy(self, instances: Iterable[Instance]) -> dict[str, bool]:
        """Return whether instances are healthy, for those that were asked."""
        return {
            one.name: self._health[one.name][1].healthy
            for one in instances
            if one.name in self._health and self._health[one.name][0] & one.cookies
        }

    async def ask(self, instances: Iterable[Instance]) -> None:
        """Ask all instances that listen, at once."""
        listening = [one for one in instances if one.cookies]
        self._probes = {(one.name, one.pids[0]): self._probe(one) for one in listening}
        answers = await asyncio.gather(*map(self._ask, listening))
        self._health = {
            one.name: (one.cookies, self._judge(one, *answer)) for one, answer in zip(listening, answers, strict=True)
        }

    async def _ask(self, instance: Instance) -> tuple[bool, str]:
        return await self._probes[instance.name, instance.pids[0]]()

    def _probe(self, instance: Instance) -> Probe:
        """Return the probe of an instance; its listeners may be others each time."""
        known = self._probes.get((instance.name, instance.pids[0]))
        if known is not None and self._target is None:
            return known
        reach: Reach = partial(self._reach, instance)
        pid = str(instance.pids[0])
        about = {"ANYLB_SERVICE": self._name, "ANYLB_INSTANCE": instance.name, "ANYLB_INSTANCE_PID": pid}
        return probe_of(self._target, self._check, reach=reach, environment=about)

    def _judge(self, instance: Instance, good: bool, why: str) -> Health:
        cookies, health = self._health.get(instance.name, (frozenset(), Health.unknown(0.0)))
        now = time.monotonic()
        if not cookies & instance.cookies:
            return Health(good, 0, now, why)
        return judge(health, good, why, self._check.rise, 1, now)
