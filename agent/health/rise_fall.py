# SPDX-License-Identifier: Apache-2.0
"""Rise and fall: when answers turn a service healthy or unhealthy. Pure; the asking is probe.py's."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Health:
    """A service's health. `streak` counts the answers in a row that speak against the present state."""

    healthy: bool
    streak: int
    since: float
    """CLOCK_MONOTONIC seconds of the last change."""
    why: str

    @staticmethod
    def unknown(now: float) -> Health:
        """Before the first answer a service is unhealthy: nothing is announced on a guess."""
        return Health(healthy=False, streak=0, since=now, why="not checked yet")


def judge(health: Health, good: bool, why: str, rise: int, fall: int, now: float) -> Health:
    """The health after one more answer: `rise` good ones in a row turn it up, `fall` bad ones down."""
    if good == health.healthy:
        return replace(health, streak=0, why=why)
    streak = health.streak + 1
    if streak >= (rise if good else fall):
        return Health(healthy=good, streak=0, since=now, why=why)
    return replace(health, streak=streak)


def disable(health: Health, file: str, now: float) -> Health:
    """The health while the operator's file lies there: unhealthy at once, for good answers do not count then."""
    why = f"disabled: {file} exists"
    return replace(health, streak=0, why=why) if not health.healthy else Health(False, 0, now, why)


def pause_s(health: Health, interval_s: float, fast_interval_s: float | None) -> float:
    """How long to wait for the next answer: less while the last ones speak against the present state."""
    return interval_s if health.streak == 0 or fast_interval_s is None else min(fast_interval_s, interval_s)
