# SPDX-License-Identifier: Apache-2.0
"""The loop of a health check: probe, judge, wait. rise_fall.py decides what an answer means.

Services whose checks are equal, and ask the same address and port, share one: there is one probe, not one for each.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, MutableMapping, Sequence
from functools import lru_cache
from pathlib import Path

from agent.config.health import HealthConfig
from agent.config.service import ServiceConfig
from agent.health.failure import NodeReason
from agent.health.local_socket import missing_listener
from agent.health.probe import Probe, Target, probe_of
from agent.health.rise_fall import Health, disable_by_file, judge, pause_s
from agent.problem import Problem, ProblemLine

log = logging.getLogger("anylb")

UNREACHED = Problem(
    "service {service}: {why}",
    "",
    "The service answers its health check, but packets of the VIP would not get to it, so it counts as unhealthy here.",
)


def checks(
    services: Collection[ServiceConfig],
    health: MutableMapping[str, Health],
    changed: Callable[[], None],
    uplinks: Sequence[str] | None = None,
) -> list[Coroutine[None, None, None]]:
    """Return the loops that keep `health[service.name]` up to date; for NAT services agent/nat/ does.

    They call `changed` when a service becomes healthy or unhealthy. `uplinks`: the interfaces of a data path, which
    looks for the services' sockets in this network namespace; None if there is none.
    """
    shared: dict[tuple[Target | None, HealthConfig], list[ServiceConfig]] = {}
    for service in (one for one in services if one.mode == "dsr"):
        shared.setdefault((service.health_target, service.health), []).append(service)
    served = {(one.vip, one.port_number) for one in services if one.protocol == "tcp"} if uplinks is not None else set()
    loops = []
    for (target, check), some in shared.items():
        local = target is not None and bool({target, (target[0], 0)} & served)
        loops.append(_check_forever(probe_of(target, check, local), check, some, health, changed, uplinks))
    return loops


def node_problems(health: Mapping[str, Health]) -> list[ProblemLine]:
    """Return a problem for each service, by name, that is unhealthy because of where its sockets are."""
    return [
        UNREACHED.line(service=name, why=one.why) for name, one in health.items() if isinstance(one.why, NodeReason)
    ]


async def _check_forever(
    probe: Probe,
    check: HealthConfig,
    services: Sequence[ServiceConfig],
    health: MutableMapping[str, Health],
    changed: Callable[[], None],
    uplinks: Sequence[str] | None,
) -> None:
    while True:
        started = time.monotonic()
        disabled = check.disable_file is not None and await asyncio.to_thread(_is_there, check.disable_file)
        good, why = (False, "") if disabled else await probe()
        now, pauses = time.monotonic(), []
        for service in services:
            before = health[service.name]
            if disabled:
                after = disable_by_file(before, str(check.disable_file), now)
            else:
                missing = _missing_listener(service, uplinks) if good and uplinks is not None else None
                after = judge(before, good and missing is None, missing or why, check.rise, check.fall, now)
            health[service.name] = after
            pauses.append(pause_s(after, check.interval_s, check.fast_interval_s))
            if after.healthy != before.healthy or (after.why != before.why and isinstance(after.why, NodeReason)):
                log.info("%s: %s, %s", service.name, "healthy" if after.healthy else "unhealthy", after.why)
                changed()
        await asyncio.sleep(max(0.0, started + min(pauses) - time.monotonic()))


def _missing_listener(service: ServiceConfig, uplinks: Sequence[str]) -> NodeReason | None:
    if not service.port_number:
        return None
    why = missing_listener(service.vip, service.protocol, service.port_number, uplinks)
    return NodeReason(why) if why else None


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            _warn_unseen(path, error.strerror or str(error))
        return False
    return True


@lru_cache(256)
def _warn_unseen(path: Path, why: str) -> None:
    """Log, once, that a file would disable nothing: the agent's unit may not pass every permission."""
    log.warning("health.disable_file: %s: %s: it is taken as absent; put it where the agent can see it", path, why)
