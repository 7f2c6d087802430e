# SPDX-License-Identifier: Apache-2.0
"""Hold-down: what counts as a fault, and how long a VIP that flaps waits."""

from agent.announcing.hold_down import FIRST_HOLD_S, MAX_HOLD_S, RESET_S, FlapRecord, after_flap, is_fault
from agent.model import Announcement

HEALTHY, SICK = Announcement(True, "healthy"), Announcement(False, "unhealthy: web", fault=True)
BY_ORDER = Announcement(False, "withdrawn by the operator")


def test_only_a_fault_that_withdraws_counts() -> None:
    assert is_fault(HEALTHY, SICK)
    assert not is_fault(None, SICK)
    assert not is_fault(SICK, SICK)
    assert not is_fault(SICK, HEALTHY)
    assert not is_fault(HEALTHY, BY_ORDER)


def test_hold_down_doubles_with_each_fault_in_a_row_and_resets_after_a_stable_time() -> None:
    record, now, holds = None, 100.0, []
    for _ in range(8):
        record = after_flap(record, now)
        holds.append(record.hold_s)
        now += record.hold_s + 1
    assert holds == [2, 4, 8, 16, 32, 60, 60, 60]
    assert holds[0] == FIRST_HOLD_S
    assert holds[-1] == MAX_HOLD_S
    assert record is not None
    assert record.count == 8
    assert after_flap(record, record.at + record.hold_s + RESET_S - 1).count == 9
    assert after_flap(record, record.at + record.hold_s + RESET_S) == FlapRecord(record.at + 360, FIRST_HOLD_S, 1)
