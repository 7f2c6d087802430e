# SPDX-License-Identifier: Apache-2.0
"""Rise and fall: how many answers in a row make a service healthy or unhealthy. Pure; probe.py gets the answers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Health:
    """A service's health. `streak` counts the last answers in a row that contradict it."""

    healthy: bool
    streak: int
    since: float
    """CLOCK_MONOTONIC seconds of the last change."""
    why: str

    @staticmethod
    def unknown(now: float) -> Health:
        """Return the health before the first answer: unhealthy, since nothing is announced on a guess."""
        return Health(healthy=False, streak=0, since=now, why="not checked yet")


def judge(health: Health, good: bool, why: str, rise: int, fall: int, now: float) -> Health:
    """Return the health after one more answer: `rise` good ones in a row make it healthy, `fall` bad ones unhealthy."""
    if good == health.healthy:
        return replace(health, streak=0, why=why)
    streak = health.streak + 1
    if streak >= (rise if good else fall):
        return Health(healthy=good, streak=0, since=now, why=why)
    return replace(health, streak=streak)


def disable_by_file(health: Health, file: str, now: float) -> Health:
    """Return the health while the operator's file exists: unhealthy at once, and good answers do not count."""
    why = f"disabled: {file} exists"
    return replace(health, streak=0, why=why) if not health.healthy else Health(False, 0, now, why)


def pause_s(health: Health, interval_s: float, fast_interval_s: float | None) -> float:
    """Return how long to wait before the next probe: less while the last answers contradict the current state."""
    return interval_s if health.streak == 0 or fast_interval_s is None else min(fast_interval_s, interval_s)


def initial_health(names: Iterable[str], healthy: Collection[str], now: float) -> dict[str, Health]:
    """Return the health of these services, by name, when an agent starts. `healthy`: those that were when the previous
    one ended."""
    return {
        name: Health(True, 0, now, "healthy when the previous agent ended") if name in healthy else Health.unknown(now)
        for name in names
    }
