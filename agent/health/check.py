# SPDX-License-Identifier: Apache-2.0
"""The loop of a health check: probe, judge, wait. rise_fall.py decides what an answer means.

Services whose checks are equal, and ask the same address and port, share one: there is one probe, not one for each.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Iterable, MutableMapping, Sequence

from agent.config.health import HealthConfig
from agent.config.service import ServiceConfig
from agent.health.probe import Target, probe_of
from agent.health.rise_fall import Health, disable_by_file, judge, pause_s

log = logging.getLogger("anylb")


def checks(
    services: Iterable[ServiceConfig], health: MutableMapping[str, Health], changed: Callable[[], None]
) -> list[Coroutine[None, None, None]]:
    """Return the loops that keep `health[service.name]` up to date.

    They call `changed` when a service becomes healthy or unhealthy.
    """
    shared: dict[tuple[Target | None, HealthConfig], list[str]] = {}
    for service in services:
        shared.setdefault((service.health_target, service.health), []).append(service.name)
    return [_check_forever(target, check, names, health, changed) for (target, check), names in shared.items()]


async def _check_forever(
    target: Target | None,
    check: HealthConfig,
    names: Sequence[str],
    health: MutableMapping[str, Health],
    changed: Callable[[], None],
) -> None:
    probe = probe_of(target, check)
    while True:
        started = time.monotonic()
        disabled = check.disable_file is not None and await asyncio.to_thread(os.path.exists, check.disable_file)
        good, why = (False, "") if disabled else await probe()
        now, pauses = time.monotonic(), []
        for name in names:
            before = health[name]
            if disabled:
                after = disable_by_file(before, str(check.disable_file), now)
            else:
                after = judge(before, good, why, check.rise, check.fall, now)
            health[name] = after
            pauses.append(pause_s(after, check.interval_s, check.fast_interval_s))
            if after.healthy != before.healthy:
                log.info("%s: %s, %s", name, "healthy" if after.healthy else "unhealthy", after.why)
                changed()
        await asyncio.sleep(max(0.0, started + min(pauses) - time.monotonic()))
