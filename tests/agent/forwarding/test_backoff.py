# SPDX-License-Identifier: Apache-2.0
"""Neighbors that do not answer are asked for ever less often, each at its own time, and at once after a change."""

from collections import Counter
from ipaddress import IPv4Address

import pytest

from agent.forwarding.backoff import MAX_S, Backoff
from agent.netlink.neighbor import Neighbor

ONE, TWO = (1, IPv4Address("10.0.0.64")), (1, IPv4Address("10.0.0.65"))


def asked(backoff: Backoff, until: float, now: float = 0.0) -> list[tuple[float, Neighbor]]:
    """Ask whenever some are due; return when, and for which."""
    found = []
    while (at := backoff.next_at) <= until:
        now = max(now, at)
        found += [(now, one) for one in sorted(backoff.take(now))]
    return found


def test_intervals_double_up_to_the_longest() -> None:
    backoff = Backoff()
    backoff.add([ONE], 0.0)
    assert [at for at, _ in asked(backoff, 125.0)] == [0, 1, 3, 7, 15, 31, 61, 91, 121]
    assert MAX_S == 30


@pytest.mark.slow
def test_a_thousand_neighbors_that_are_gone_are_not_asked_for_at_once() -> None:
    """For ever, after a minute: a thirtieth of the questions of one each second, and no more than 40 at a time."""
    many = [(1, IPv4Address("10.0.0.1") + n) for n in range(1100)]
    backoff = Backoff()
    backoff.add(many, 0.0)
    asked(backoff, 60.0)
    later = asked(backoff, 660.0, 60.0)
    assert len(later) < 600 / 22 * len(many)
    assert max(Counter(int(at) for at, _ in later).values()) < len(many) / 4


def test_who_answers_is_not_asked_for_any_more() -> None:
    backoff = Backoff()
    backoff.add([ONE, TWO], 0.0)
    backoff.take(0.0)
    backoff.answered(ONE)
    assert backoff.neighbors == {TWO}
    assert {one for _, one in asked(backoff, 10.0)} == {TWO}
    backoff.keep({ONE})
    assert (backoff.neighbors, backoff.next_at) == (set(), float("inf"))


def test_asking_again_or_failing_changes_no_schedule() -> None:
    """The kernel reports a failure after each of our own questions."""
    backoff = Backoff()
    backoff.add([ONE], 0.0)
    for at in range(100):
        backoff.add([ONE], float(at))
        backoff.failed(ONE, float(at))
        backoff.take(float(at))
    assert backoff.next_at == 121
    backoff.failed(TWO, 100.0)
    assert backoff.next_at == 101, "the kernel has just asked"


def test_after_a_change_of_a_link_all_are_asked_for() -> None:
    backoff = Backoff()
    backoff.add([ONE, TWO], 0.0)
    asked(backoff, 50.0)
    backoff.reset(50.0)
    assert backoff.take(50.0) == {ONE, TWO}
    assert backoff.next_at < 51.1
