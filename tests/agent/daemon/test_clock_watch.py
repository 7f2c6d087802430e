# SPDX-License-Identifier: Apache-2.0
"""A wall clock that is set is an event, one that NTP corrects is none."""

import pytest

from agent.daemon.clock_watch import step_line


@pytest.mark.parametrize(("step_s", "begin"), [(3599.8, "forward by 1 h"), (-90_000.0, "back by 1 d")])
def test_a_step_is_named(step_s: float, begin: str) -> None:
    line = step_line(step_s)
    assert line is not None
    assert line.startswith(f"the clock was set {begin}: ")


@pytest.mark.parametrize("step_s", [0.0, 1.9, -1.9])
def test_a_correction_is_not(step_s: float) -> None:
    assert step_line(step_s) is None
