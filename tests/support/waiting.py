# SPDX-License-Identifier: Apache-2.0
"""Waiting for a state instead of for seconds, and comparing the times that daemons report."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import time as clock

PAUSE_SHARE = 0.05
"""Of the time waited so far: a wait ends at most so much later, and a long one needs few polls."""


def wait_for(
    condition: Callable[[], object], what: str | Callable[[], str] = "the state", timeout_s: float = 120.0
) -> None:
    """Poll until the condition holds. Raises AssertionError after the timeout, with `what`: of then, if it is called.

    It is no bound on the time that users wait: on a machine where ten processes want each CPU, 30 s did not suffice.
    What is waited for needs the CPU too: a pause is as long as the poll, and as `PAUSE_SHARE` of the wait so far.
    """
    start = began = time.monotonic()
    while not condition():
        now = time.monotonic()
        assert now < start + timeout_s, f"not within {timeout_s:g} s: {what() if callable(what) else what}"
        time.sleep(min(max(0.02, now - began, PAUSE_SHARE * (now - start)), 0.5))
        began = time.monotonic()


@dataclass(frozen=True, eq=False)
class Since:
    """The start of a state as BIRD prints it: `08:22:04.434`. Two are equal if they differ by less than 0.1 s.

    BIRD computes the wall clock's time again for each reply, so it may differ by a millisecond.
    """

    text: str

    @property
    def seconds(self) -> float:
        at = clock.fromisoformat(self.text)
        return at.hour * 3600 + at.minute * 60 + at.second + at.microsecond / 1e6

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Since) and abs(self.seconds - other.seconds) < 0.1

    __hash__ = None  # type: ignore[assignment]
