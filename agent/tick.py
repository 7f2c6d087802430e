# SPDX-License-Identifier: Apache-2.0
"""Sleeps that end together: a dozen tasks with equal intervals, or halves of them, cost one wake-up of the process."""

from __future__ import annotations

import asyncio
import random
import time

_PHASE_S = random.random()
"""The nodes of a lab are processes of one machine: they wake at different times."""
_EARLY_S = 0.005
"""A sleep that is at least so much shorter than its interval would be a second wake-up for the same time."""


def until_next(interval_s: float, now: float) -> float:
    """Return the seconds until the next common end, at most an interval and a little. Pure."""
    left = interval_s - (now + _PHASE_S) % interval_s
    return left if left > _EARLY_S else left + interval_s


async def sleep_until_next(interval_s: float) -> None:
    """Sleep until the next common end of all sleeps of this interval."""
    await asyncio.sleep(until_next(interval_s, time.monotonic()))
