# SPDX-License-Identifier: Apache-2.0
"""Grace begins with a row's change, lasts as long as the row changes, and has a bound."""

import numpy as np

from agent.forwarding.grace import GRACE_IN_ALL_S, GRACE_S, Grace

NS = 1_000_000_000


def test_grace_begins_and_ends() -> None:
    changed = np.array([True, False])
    grace = Grace.of(np.zeros(2, np.uint64)).after(changed, 100.0)
    assert grace.until.tolist() == [int((100 + GRACE_S) * NS), 0]
    # A change of another row does not affect it.
    assert grace.after(~changed, 105.0).until.tolist() == [int((100 + GRACE_S) * NS), int((105 + GRACE_S) * NS)]


def test_grace_is_bounded_over_a_run_of_changes() -> None:
    changed, grace = np.array([True]), Grace.of(np.zeros(1, np.uint64))
    for now in range(0, 300, 5):
        grace = grace.after(changed, 1000.0 + now)
        assert grace.until[0] <= (1000 + GRACE_IN_ALL_S) * NS
    # A change begins another run only after the row has not changed for a time.
    grace = grace.after(changed, 1295.0 + GRACE_S)
    assert grace.until[0] == (1295 + 2 * GRACE_S) * NS


def test_a_run_that_begins_just_after_the_boot_lasts_as_long_as_any() -> None:
    changed, grace = np.array([True]), Grace.of(np.zeros(1, np.uint64))
    for now in range(4, 200, 5):
        grace = grace.after(changed, now)
    assert grace.until[0] == (4 + GRACE_IN_ALL_S) * NS


def test_grace_of_an_earlier_agent_is_kept() -> None:
    left = np.array([50 * NS, 0], np.uint64)
    assert Grace.of(left).after(np.array([False, True]), 45.0).until.tolist() == [50 * NS, (45 + GRACE_S) * NS]


def test_grace_never_shrinks() -> None:
    changed, grace = np.array([True]), Grace.of(np.zeros(1, np.uint64))
    last = 0
    for now in (*range(100, 100 + int(GRACE_IN_ALL_S), 9), 99.9 + GRACE_IN_ALL_S):
        grace = grace.after(changed, now)
        assert int(grace.until[0]) >= last
        last = int(grace.until[0])
    assert last == (100 + GRACE_IN_ALL_S) * NS


def test_shared_rows_have_their_grace_at_the_next_change() -> None:
    """A row that changed for one service alone, and changes again once two share it."""
    changed, never = np.array([True]), Grace.of(np.zeros(1, np.uint64))
    recent = never.after(changed, 100.0)
    for shared in (recent.longest(never), never.longest(recent)):
        assert shared.until.tolist() == recent.until.tolist()
        assert shared.after(changed, 109.0).until.tolist() == [(109 + GRACE_S) * NS]
