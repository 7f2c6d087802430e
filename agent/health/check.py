# SPDX-License-Identifier: Apache-2.0
"""The loop of one service's health check: probe, judge, wait. rise_fall.py decides what an answer means."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, MutableMapping

from agent.config.service import ServiceConfig
from agent.health.probe import probe
from agent.health.rise_fall import Health, disable_by_file, judge, pause_s

log = logging.getLogger("anylb")


async def check_forever(
    service: ServiceConfig, health: MutableMapping[str, Health], changed: Callable[[], None]
) -> None:
    """Keep `health[service.name]` up to date, forever; call `changed` when it becomes healthy or unhealthy."""
    check = service.health
    while True:
        started = time.monotonic()
        before = health[service.name]
        if check.disable_file is not None and await asyncio.to_thread(os.path.exists, check.disable_file):
            after = disable_by_file(before, str(check.disable_file), time.monotonic())
        else:
            good, why = await probe(service.vip, service.health_port, check)
            after = judge(before, good, why, check.rise, check.fall, time.monotonic())
        health[service.name] = after
        if after.healthy != before.healthy:
            log.info("%s: %s, %s", service.name, "healthy" if after.healthy else "unhealthy", after.why)
            changed()
        due = started + pause_s(after, check.interval_s, check.fast_interval_s)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
