# SPDX-License-Identifier: Apache-2.0
"""One service's health check as it goes on: ask, judge, wait. What an answer means is rise_fall.py's."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, MutableMapping

from agent.config.service import ServiceConfig
from agent.health.probe import ask
from agent.health.rise_fall import Health, disable, judge, pause_s

log = logging.getLogger("anylb")


async def check_forever(
    service: ServiceConfig, health: MutableMapping[str, Health], changed: Callable[[], None]
) -> None:
    """Keep `health[service.name]` true; `changed` is called when it turns."""
    check = service.health
    while True:
        began = time.monotonic()
        before = health[service.name]
        if check.disable_file is not None and await asyncio.to_thread(os.path.exists, check.disable_file):
            after = disable(before, str(check.disable_file), time.monotonic())
        else:
            good, why = await ask(service.vip, service.health_port, check)
            after = judge(before, good, why, check.rise, check.fall, time.monotonic())
        health[service.name] = after
        if after.healthy != before.healthy:
            log.info("%s: %s, %s", service.name, "healthy" if after.healthy else "unhealthy", after.why)
            changed()
        due = began + pause_s(after, check.interval_s, check.fast_interval_s)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
