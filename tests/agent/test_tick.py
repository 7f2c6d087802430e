# SPDX-License-Identifier: Apache-2.0
"""Sleeps of equal intervals, and of halves of them, end at the same time."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import tick
from agent.tick import sleep_until_next, until_next


@given(st.floats(0, 1e6), st.floats(0, 0.49))
def test_sleeps_that_begin_at_different_times_end_together(now: float, later: float) -> None:
    begin = now + until_next(0.5, now)
    half = begin + later
    while half < begin + 0.5 - tick._EARLY_S:
        half += until_next(0.25, half)
    assert half == pytest.approx(begin + 0.5, abs=1e-6)
    assert begin + later + until_next(0.5, begin + later) == pytest.approx(begin + 0.5, abs=1e-6)


@given(st.floats(0, 1e6))
def test_a_sleep_that_ends_a_little_early_is_not_followed_by_a_short_one(now: float) -> None:
    end = now + until_next(0.5, now)
    assert 0.5 <= until_next(0.5, end - 0.001) <= 0.502
    assert 0 < until_next(0.5, now) <= 0.5 + tick._EARLY_S


@pytest.mark.slow
def test_tasks_wake_together() -> None:
    ends: list[float] = []

    async def sleeper(begin_s: float) -> None:
        await asyncio.sleep(begin_s)
        await sleep_until_next(0.5)
        ends.append(time.monotonic())

    async def run() -> None:
        await sleep_until_next(0.5)  # all begin within one interval
        await asyncio.gather(*(sleeper(number / 50) for number in range(5)))

    asyncio.run(run())
    assert max(ends) - min(ends) < 0.02, "by themselves they would end 0.08 s after each other"
