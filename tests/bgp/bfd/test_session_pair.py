# SPDX-License-Identifier: Apache-2.0
"""Two BFD sessions over a simulated link that loses, delays and drops packets."""

from __future__ import annotations

import heapq
import itertools
import random

from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from bgp.bfd.packet import Diagnostic, SessionState, decode
from bgp.bfd.session import BfdSession, SessionTimers, StateChange


class Link:
    """Two sessions and a link that loses and delays packets, in simulated time."""

    def __init__(self, seed: int, loss: float, delay_s: float, timers: tuple[SessionTimers, SessionTimers]) -> None:
        self.random = random.Random(seed)
        self.loss, self.delay_s, self.cut, self.now = loss, delay_s, False, 0.0
        self.ends = [BfdSession(number, t, 0.0, self.random.random) for number, t in enumerate(timers, 1)]
        self.changes: list[tuple[float, int, StateChange]] = []
        self._in_flight: list[tuple[float, int, int, bytes]] = []
        self._count = itertools.count()

    def run(self, until: float) -> None:
        while True:
            due = min([end.next_timer() for end in self.ends] + [item[0] for item in self._in_flight[:1]])
            if due > until:
                self.now = until
                return
            self.now = max(self.now, due)
            while self._in_flight and self._in_flight[0][0] <= self.now:
                _at, _order, to, data = heapq.heappop(self._in_flight)
                packet = decode(data)
                assert packet is not None
                self.ends[to].receive(packet, self.now)
            for index, end in enumerate(self.ends):
                end.handle_timer(self.now)
                self.changes += [(self.now, index, change) for change in end.changes()]
                for packet in end.outgoing():
                    if not self.cut and self.random.random() >= self.loss:
                        at = self.now + self.random.random() * self.delay_s
                        heapq.heappush(self._in_flight, (at, next(self._count), 1 - index, packet.encode()))

    @property
    def states(self) -> set[SessionState]:
        return {end.state for end in self.ends}


some_timers = st.builds(SessionTimers, st.sampled_from([50_000, 100_000, 300_000, 2_000_000]), st.integers(2, 5))


@examples(30)
@given(st.integers(), st.floats(0, 0.3), st.floats(0, 0.04), some_timers, some_timers)
def test_both_ends_come_up_over_a_lossy_link_and_detect_its_failure(
    seed: int, loss: float, delay_s: float, one: SessionTimers, other: SessionTimers
):
    link = Link(seed, loss, delay_s, (one, other))
    link.run(40.0)
    assert any(change.new is SessionState.UP for _at, _index, change in link.changes), "up at least once"
    link.loss = 0.0
    link.run(70.0)
    assert link.states == {SessionState.UP}
    assert not any(end._polling for end in link.ends), "no Poll Sequence left"
    quiet = len(link.changes)
    link.run(90.0)
    assert link.changes[quiet:] == [], "no further change"
    slower_us = max(one.interval_us, other.interval_us)
    assert [end.detection_us for end in link.ends] == [m * slower_us for m in (other.multiplier, one.multiplier)]
    link.cut = True
    link.run(link.now + max(one.multiplier, other.multiplier) * slower_us / 1e6 + delay_s)
    failures = [change for _at, _index, change in link.changes[quiet:] if change.old is SessionState.UP]
    assert [change.diagnostic for change in failures] == [Diagnostic.TIME_EXPIRED] * 2
    assert all(change.failure for change in failures)
    link.cut = False
    link.run(link.now + 40.0)
    assert link.states == {SessionState.UP}


@examples(10)
@given(st.integers(), some_timers)
def test_shut_at_one_end_is_no_failure_at_the_other(seed: int, timers: SessionTimers):
    link = Link(seed, 0.0, 0.01, (timers, timers))
    link.run(20.0)
    assert link.states == {SessionState.UP}
    before = len(link.changes)
    link.ends[0].shut(link.now)
    link.run(40.0)
    assert {index: (change.new, change.failure) for _at, index, change in link.changes[before:]} == {
        0: (SessionState.ADMIN_DOWN, False),
        1: (SessionState.DOWN, False),
    }
