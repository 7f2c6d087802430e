# SPDX-License-Identifier: Apache-2.0
"""Whether the wall clock was set while the agent runs: an event, because what people compare is dated by it.

Nothing between nodes depends on it. By it end the orders for VIPs, which outlive a reboot; all else runs by
CLOCK_MONOTONIC.
"""

from __future__ import annotations

import logging
import time

from agent.tick import sleep_until_next
from agent.time_text import age

log = logging.getLogger("anylb")

POLL_S = 1.0
MIN_STEP_S = 2.0
"""A clock that is kept by NTP is corrected by less."""


def step_line(step_s: float) -> str | None:
    """Return the event for a clock that was set by so many seconds; None if it was not. Pure."""
    if abs(step_s) < MIN_STEP_S:
        return None
    step = f"{'forward' if step_s > 0 else 'back'} by {age(round(abs(step_s)))}"
    return (
        f"the clock was set {step}: times before this line are by the former clock, and "
        "orders for VIPs end by the new one; see whether it is right now (timedatectl, chronyc tracking)"
    )


async def watch_clock() -> None:
    """Log each step of the wall clock, until canceled. A machine that slept has one forward."""
    offset_s = time.time() - time.monotonic()
    while True:
        await sleep_until_next(POLL_S)
        before_s, offset_s = offset_s, time.time() - time.monotonic()
        if (line := step_line(offset_s - before_s)) is not None:
            log.warning("%s", line)
