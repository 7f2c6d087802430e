# SPDX-License-Identifier: Apache-2.0
"""Waiting for a state, not for seconds, and telling states of real daemons apart."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import time as clock


def wait_for(condition: Callable[[], object], what: str = "the state", timeout_s: float = 30.0) -> None:
    """Ask until it is so. AssertionError: it was not in time, which is long enough for a machine that is busy."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)


@dataclass(frozen=True, eq=False)
class Since:
    """Since when something is so, as BIRD tells it: `08:22:04.434`. Two are the same if they hardly differ.

    BIRD works the wall clock's time out anew at each question, and a millisecond more or less may come of it.
    """

    text: str

    @property
    def seconds(self) -> float:
        at = clock.fromisoformat(self.text)
        return at.hour * 3600 + at.minute * 60 + at.second + at.microsecond / 1e6

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Since) and abs(self.seconds - other.seconds) < 0.1

    __hash__ = None  # type: ignore[assignment]
