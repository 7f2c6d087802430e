# SPDX-License-Identifier: Apache-2.0
"""The health of backends as this node believes it, and the checks of those that it checks itself. I/O.

belief.py decides which these are. A probe that several services share, with the same check of the same address and
port, is made once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple

from agent.address import Address
from agent.config.health import ExecCheckConfig, HealthConfig
from agent.config.schema import Config
from agent.health.probe import probe_of
from agent.health.rise_fall import Health, judge, pause_s
from agent.nat.backend import BackendKey, ambiguous, backends_of
from agent.nat.belief import believed, must_check

log = logging.getLogger("anylb")


_UNKNOWN: Final = Health.unknown(0.0).why


class _Probe(NamedTuple):
    address: Address
    port: int
    check: HealthConfig


def _probe(key: BackendKey, check: HealthConfig) -> _Probe:
    assert not isinstance(check, ExecCheckConfig), "a program would ask from this node only"
    return _Probe(key.address, check.port or key.port, check)


class BackendHealth:
    """The health of all backends. `follow` gives it what other nodes publish; `run` makes the checks."""

    def __init__(
        self,
        config: Config,
        sources: Mapping[int, Address],
        healthy: Collection[BackendKey],
        on_change: Callable[[], None],
    ) -> None:
        """`sources`: the address that checks come from, by IP version. `healthy`: the backends that were when the
        previous agent ended. `on_change` is called when a backend's health, or a result of this node, differs."""
        now, keys = time.monotonic(), backends_of(config)
        kept = Health(True, 0, now, "healthy when the previous agent ended")
        self.health = {key: kept if key in healthy else Health.unknown(now) for key in keys}
        self.numbers = {key: key.number for key in keys}
        self._ambiguous = ambiguous(self.numbers)
        self._sources, self._on_change = sources, on_change
        checks = {service.key: service.health for _, service in config.nat_services}
        self._probes = {key: _probe(key, checks[key.service]) for key in keys}
        self._assigned: Collection[int] = ()
        self._checked: set[BackendKey] = set()
        self._decided: set[BackendKey] = set()
        """Those whose health is the result of this node's own check."""
        self._wake = asyncio.Event()

    def follow(self, assigned: Collection[int], votes: Mapping[int, Sequence[bool]], now: float) -> None:
        """Check the backends that are `assigned`, by number, and those that other nodes do not all find healthy; take
        over the health of the others, and of those not asked yet. `votes`: the results of other nodes."""
        self._assigned = assigned
        for key, number in self.numbers.items():
            known = () if number in self._ambiguous else votes.get(number, ())
            check = number in assigned or must_check(known)
            if key not in self._decided:
                self._set(key, believed(self.health[key], known, now))
            if check:
                self._checked.add(key)
            elif key in self._checked:
                self._checked.discard(key)
                self._decided.discard(key)
                self._set(key, believed(self.health[key], known, now))
        self._wake.set()

    def results(self) -> dict[int, bool]:
        """Return the results of this node's checks of the backends that it is assigned, by number."""
        return {
            number: self.health[key].healthy
            for key, number in self.numbers.items()
            if key in self._decided and number in self._assigned and number not in self._ambiguous
        }

    def is_known(self, key: BackendKey) -> bool:
        """Whether a backend's health is more than a guess."""
        return self.health[key].why != _UNKNOWN

    def checks_itself(self, key: BackendKey) -> bool:
        """Whether this node checks a backend itself."""
        return key in self._checked

    def _set(self, key: BackendKey, health: Health) -> None:
        before, self.health[key] = self.health[key], health
        if health.healthy != before.healthy:
            log.info("backend %s of %s: %s, %s", key, key.service, "up" if health.healthy else "down", health.why)
            self._on_change()

    async def run(self) -> None:
        """Check forever."""
        running: dict[_Probe, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as tasks:
            while True:
                wanted = {self._probes[key] for key in self._checked}
                for probe in running.keys() - wanted:
                    running.pop(probe).cancel()
                for probe in wanted - running.keys():
                    running[probe] = tasks.create_task(self._check_forever(probe))
                await self._wake.wait()
                self._wake.clear()

    async def _check_forever(self, probe: _Probe) -> None:
        address, port, check = probe
        ask = probe_of((address, port), check, source=self._sources[address.version])
        keys = [key for key, one in self._probes.items() if one == probe]
        while True:
            started = time.monotonic()
            good, why = await ask()
            now, pauses = time.monotonic(), [check.interval_s]
            for key in [key for key in keys if key in self._checked]:
                after = judge(self.health[key], good, why, check.rise, check.fall, now)
                self._set(key, after)
                if after.streak == 0 and key not in self._decided:
                    self._decided.add(key)
                    self._on_change()
                pauses.append(pause_s(after, check.interval_s, check.fast_interval_s))
            await asyncio.sleep(max(0.0, started + min(pauses) - time.monotonic()))
