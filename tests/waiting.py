# SPDX-License-Identifier: Apache-2.0
"""Waiting for a state, not for seconds: the one way in which tests of real daemons do it."""

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], what: str = "the state", timeout_s: float = 30.0) -> None:
    """Ask until it is so. AssertionError: it was not in time, which is long enough for a machine that is busy."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)
