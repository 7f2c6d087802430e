# SPDX-License-Identifier: Apache-2.0
"""Hold-down of a VIP that flaps: how long this node waits before it announces the VIP again. Pure; `now` is
CLOCK_MONOTONIC seconds.

Routers damp a flapping prefix for minutes (RFC 2439), and every change moves flows between nodes: a VIP that stays
withdrawn for a while is better than one that flaps. Each fault in a row doubles the time. Only the next
announcement waits; a withdrawal never does.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.model import Announcement

FIRST_HOLD_S = 2.0
MAX_HOLD_S = 60.0
RESET_S = 300.0
"""A VIP that stays announced for this long begins again with `FIRST_HOLD_S`."""


@dataclass(frozen=True, slots=True)
class FlapRecord:
    """The latest fault of a VIP: it is not announced again before `at + hold_s`."""

    at: float
    hold_s: float
    count: int
    """Faults in a row, each less than `RESET_S` after the end of the hold-down before it."""

    def holds(self, now: float) -> bool:
        """Whether the VIP is still held down."""
        return now < self.at + self.hold_s

    @property
    def why(self) -> str:
        """The hold-down as text."""
        times = f"{self.count} faults in a row" if self.count > 1 else "a fault"
        return f"held down for {self.hold_s:g} s after {times}; `lbctl announce up` ends it"


def after_flap(before: FlapRecord | None, now: float) -> FlapRecord:
    """Return the record after one more fault: the hold-down doubles, up to `MAX_HOLD_S`."""
    if before is None or now - before.at >= before.hold_s + RESET_S:
        return FlapRecord(now, FIRST_HOLD_S, 1)
    return FlapRecord(now, min(2 * before.hold_s, MAX_HOLD_S), before.count + 1)


def is_fault(before: Announcement | None, after: Announcement) -> bool:
    """Whether a fault takes a VIP's route away. What an operator asks for does not count."""
    return before is not None and before.wanted and not after.wanted and after.fault
