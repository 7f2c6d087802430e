# SPDX-License-Identifier: Apache-2.0
"""BFD without sockets and clocks: packets, the state machine, its timers, and two machines at a bad line."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgp.bfd.packet import Diagnostic, Packet, SessionState, decode
from bgp.bfd.session import BfdSession, SessionTimers, StateChange

FAST = SessionTimers(300_000, 3)
HEARD = Packet(SessionState.DOWN, 3, 7, 0, 1_000_000, 300_000)
"""A neighbor (discriminator 7) that is beginning."""


def session(timers: SessionTimers = FAST, number: int = 1, jitter: float = 0.0) -> BfdSession:
    return BfdSession(number, timers, 0.0, lambda: jitter)


def sent(machine: BfdSession) -> list[Packet]:
    return machine.outgoing()


def up(machine: BfdSession, now: float = 0.0, heard: Packet = HEARD) -> None:
    """Bring it up, and answer its Poll."""
    machine.receive(heard, now)
    machine.receive(replace(heard, state=SessionState.INIT, your_discriminator=machine.discriminator), now)
    fast = replace(heard, state=SessionState.UP, your_discriminator=machine.discriminator, desired_min_tx_us=300_000)
    machine.receive(replace(fast, final=True), now)
    assert machine.state is SessionState.UP
    machine.outgoing()
    machine.changes()


# Packets


def test_packet_is_what_the_rfc_draws():
    packet = Packet(SessionState.UP, 3, 0x01020304, 0x0A0B0C0D, 300_000, 50_000, Diagnostic.NEIGHBOR_DOWN, poll=True)
    wire = "23 e0 03 18 01020304 0a0b0c0d 000493e0 0000c350 00000000"
    assert packet.encode() == bytes.fromhex(wire.replace(" ", ""))
    assert decode(packet.encode()) == packet


GOOD = replace(HEARD, state=SessionState.UP, your_discriminator=9).encode()


@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("empty", b""),
        ("truncated", GOOD[:23]),
        ("longer by its own word than it is", GOOD[:3] + bytes([25]) + GOOD[4:]),
        ("shorter than a packet can be", GOOD[:3] + bytes([23]) + GOOD[4:]),
        ("version 0", bytes([GOOD[0] & 0x1F]) + GOOD[1:]),
        ("version 2", bytes([2 << 5]) + GOOD[1:]),
        ("authenticated", GOOD[:1] + bytes([GOOD[1] | 4]) + GOOD[2:]),
        ("multipoint", GOOD[:1] + bytes([GOOD[1] | 1]) + GOOD[2:]),
        ("multiplier 0", GOOD[:2] + b"\0" + GOOD[3:]),
        ("my discriminator 0", GOOD[:4] + bytes(4) + GOOD[8:]),
        ("Up without your discriminator", GOOD[:8] + bytes(4) + GOOD[12:]),
        ("Init without your discriminator", replace(HEARD, state=SessionState.INIT).encode()),
    ],
)
def test_packet_that_counts_for_nothing(why: str, data: bytes):
    assert decode(GOOD) is not None
    assert decode(data) is None, why


def test_bytes_behind_the_packet_do_not_matter():
    assert decode(GOOD + b"more") == decode(GOOD)


@given(st.binary(max_size=60))
def test_no_bytes_raise(data: bytes):
    decode(data)


packets = st.builds(
    Packet,
    state=st.sampled_from(SessionState),
    multiplier=st.integers(1, 255),
    my_discriminator=st.integers(1, 2**32 - 1),
    your_discriminator=st.sampled_from([0, 1, 1, 1, 2]),
    desired_min_tx_us=st.sampled_from([0, 1, 300_000, 2**32 - 1]),
    required_min_rx_us=st.sampled_from([0, 1, 300_000, 2**32 - 1]),
    diagnostic=st.integers(0, 31),
    poll=st.booleans(),
    final=st.booleans(),
    demand=st.booleans(),
)


@given(st.lists(st.tuples(packets, st.floats(0, 3))))
def test_no_packets_confuse_a_session(heard: list[tuple[Packet, float]]):
    """Whatever comes, it answers no more than twice, asks to be called later than now, and reports what it is."""
    machine, now, state = session(), 0.0, SessionState.DOWN
    for packet, pause in heard:
        now += pause
        machine.receive(packet, now)
        machine.handle_timer(now)
        assert machine.next_timer() > now or machine.transmit_us == 0
        assert len(machine.outgoing()) <= 4
        for change in machine.changes():
            assert change.old is state
            state = change.new
            assert not change.failure or (change.old, change.new) == (SessionState.UP, SessionState.DOWN)
        assert machine.state is state


# The state machine


def test_three_packets_bring_it_up_and_each_is_answered_at_once():
    machine = session()
    machine.handle_timer(0.0)
    assert [(p.state, p.your_discriminator) for p in sent(machine)] == [(SessionState.DOWN, 0)]
    machine.receive(HEARD, 0.1)
    assert [(p.state, p.your_discriminator) for p in sent(machine)] == [(SessionState.INIT, 7)]
    machine.receive(replace(HEARD, state=SessionState.UP, your_discriminator=1), 0.2)
    assert [(p.state, p.desired_min_tx_us) for p in sent(machine)] == [(SessionState.UP, 300_000)]
    assert machine.changes() == [
        StateChange(SessionState.DOWN, SessionState.INIT, Diagnostic.NONE, failure=False),
        StateChange(SessionState.INIT, SessionState.UP, Diagnostic.NONE, failure=False),
    ]


@pytest.mark.parametrize(
    ("ours", "theirs", "after"),
    [
        # RFC 5880 section 6.8.6, all of it.
        (SessionState.DOWN, SessionState.ADMIN_DOWN, SessionState.DOWN),
        (SessionState.DOWN, SessionState.DOWN, SessionState.INIT),
        (SessionState.DOWN, SessionState.INIT, SessionState.UP),
        (SessionState.DOWN, SessionState.UP, SessionState.DOWN),
        (SessionState.INIT, SessionState.ADMIN_DOWN, SessionState.DOWN),
        (SessionState.INIT, SessionState.DOWN, SessionState.INIT),
        (SessionState.INIT, SessionState.INIT, SessionState.UP),
        (SessionState.INIT, SessionState.UP, SessionState.UP),
        (SessionState.UP, SessionState.ADMIN_DOWN, SessionState.DOWN),
        (SessionState.UP, SessionState.DOWN, SessionState.DOWN),
        (SessionState.UP, SessionState.INIT, SessionState.UP),
        (SessionState.UP, SessionState.UP, SessionState.UP),
        (SessionState.ADMIN_DOWN, SessionState.DOWN, SessionState.ADMIN_DOWN),
        (SessionState.ADMIN_DOWN, SessionState.UP, SessionState.ADMIN_DOWN),
    ],
)
def test_state_after_a_packet(ours: SessionState, theirs: SessionState, after: SessionState):
    machine = session()
    if ours is SessionState.INIT:
        machine.receive(HEARD, 0.0)
    elif ours is SessionState.UP:
        up(machine)
    elif ours is SessionState.ADMIN_DOWN:
        machine.shut(0.0)
    assert machine.state is ours
    machine.receive(replace(HEARD, state=theirs, your_discriminator=1), 0.1)
    assert machine.state is after


@pytest.mark.parametrize(("said", "failure"), [(SessionState.DOWN, True), (SessionState.ADMIN_DOWN, False)])
def test_neighbor_that_says_down_has_failed_and_one_that_was_taken_down_has_not(said: SessionState, failure: bool):
    machine = session()
    up(machine)
    machine.receive(replace(HEARD, state=said, your_discriminator=1), 0.1)
    assert machine.changes() == [StateChange(SessionState.UP, SessionState.DOWN, Diagnostic.NEIGHBOR_DOWN, failure)]


def test_neighbor_that_began_anew_has_failed():
    """It was restarted: it knows our discriminator no more."""
    machine = session()
    up(machine)
    machine.receive(replace(HEARD, my_discriminator=8), 0.1)
    assert [change.failure for change in machine.changes()] == [True]
    assert sent(machine)[-1].your_discriminator == 8


def test_packet_for_another_session_changes_nothing():
    machine = session()
    up(machine, 0.0)
    machine.receive(replace(HEARD, your_discriminator=2), 0.5)
    assert machine.state is SessionState.UP
    machine.handle_timer(0.91)
    assert machine.state is SessionState.DOWN, "nor did it count as a sign of life"


def test_shut_tells_the_neighbor_and_hears_nothing():
    machine = session()
    up(machine)
    machine.shut(0.1)
    assert [(p.state, p.diagnostic) for p in sent(machine)] == [(SessionState.ADMIN_DOWN, Diagnostic.ADMIN_DOWN)]
    assert machine.changes() == [
        StateChange(SessionState.UP, SessionState.ADMIN_DOWN, Diagnostic.ADMIN_DOWN, failure=False)
    ]
    machine.receive(replace(HEARD, poll=True), 0.2)
    assert sent(machine) == []


# SessionTimers


def test_silence_for_the_detection_time_is_a_failure():
    machine = session()
    up(machine, 10.0)
    assert machine.detection_us == 900_000
    machine.handle_timer(10.899)
    assert machine.state is SessionState.UP
    machine.handle_timer(10.9)
    assert machine.changes() == [StateChange(SessionState.UP, SessionState.DOWN, Diagnostic.TIME_EXPIRED, failure=True)]
    last = sent(machine)[-1]
    assert (last.state, last.diagnostic, last.your_discriminator) == (SessionState.DOWN, Diagnostic.TIME_EXPIRED, 0)


def test_silence_before_up_is_none():
    machine = session()
    machine.receive(HEARD, 0.0)
    assert machine.state is SessionState.INIT
    machine.handle_timer(3.0)
    assert machine.changes()[-1] == StateChange(
        SessionState.INIT, SessionState.DOWN, Diagnostic.TIME_EXPIRED, failure=False
    )


def test_the_slower_end_decides_on_the_interval():
    machine = session()
    up(machine, 0.0, replace(HEARD, multiplier=5, required_min_rx_us=400_000))
    slow = Packet(SessionState.UP, 5, 7, 1, 700_000, 400_000)
    machine.receive(slow, 1.0)
    assert machine.transmit_us == 400_000
    assert machine.detection_us == 5 * 700_000


@pytest.mark.parametrize(("jitter", "interval"), [(0.0, 0.3), (0.999, 0.3 * 0.75025)])
def test_packets_leave_after_the_interval_less_up_to_a_quarter(jitter: float, interval: float):
    machine = session(jitter=jitter)
    up(machine, 0.0)
    machine.handle_timer(machine.next_timer())
    machine.outgoing()
    began = machine._sent_at
    machine.receive(Packet(SessionState.UP, 3, 7, 1, 300_000, 300_000), began)
    assert machine.next_timer() - began == pytest.approx(interval)
    machine.handle_timer(began + interval - 0.001)
    assert sent(machine) == []
    machine.handle_timer(began + interval)
    assert len(sent(machine)) == 1


def test_once_a_second_until_it_is_up():
    machine = session()
    machine.handle_timer(0.0)
    assert machine.next_timer() == 1.0
    assert sent(machine)[0].desired_min_tx_us == 1_000_000
    up(machine, 0.0)
    machine.receive(replace(HEARD, your_discriminator=1), 0.1)
    assert machine.state is SessionState.DOWN
    assert sent(machine)[-1].desired_min_tx_us == 1_000_000
    assert machine.next_timer() == pytest.approx(1.1)


def test_the_way_to_the_fast_interval_is_polled_until_answered():
    machine = session()
    machine.receive(HEARD, 0.0)
    machine.receive(replace(HEARD, state=SessionState.INIT, your_discriminator=1), 0.0)
    assert [p.poll for p in sent(machine)] == [False, True]
    machine.handle_timer(0.3)
    assert [p.poll for p in sent(machine)] == [True], "and fast already"
    machine.receive(Packet(SessionState.UP, 3, 7, 1, 300_000, 300_000, final=True), 0.3)
    machine.handle_timer(0.6)
    assert [p.poll for p in sent(machine)] == [False]


def test_poll_is_answered_at_once_with_final_and_no_poll():
    machine = session()
    machine.receive(HEARD, 0.0)
    machine.receive(replace(HEARD, state=SessionState.INIT, your_discriminator=1), 0.0)
    machine.outgoing()
    machine.receive(Packet(SessionState.UP, 3, 7, 1, 300_000, 300_000, poll=True), 0.01)
    assert [(p.final, p.poll) for p in sent(machine)] == [(True, False)]


def test_slower_timers_wait_for_the_neighbor_s_answer():
    machine = session()
    up(machine, 0.0)
    machine.set_timers(SessionTimers(1_000_000, 3), 0.0)
    assert [(p.poll, p.desired_min_tx_us) for p in sent(machine)] == [(True, 1_000_000)]
    assert (machine.transmit_us, machine.detection_us) == (300_000, 3_000_000), "no slower, but more patient already"
    machine.set_timers(SessionTimers(2_000_000, 3), 0.1)
    assert sent(machine)[0].desired_min_tx_us == 1_000_000, "one change after the other"
    final = Packet(SessionState.UP, 3, 7, 1, 300_000, 300_000, final=True)
    machine.receive(final, 0.2)
    assert machine.transmit_us == 1_000_000
    machine.handle_timer(machine.next_timer())
    assert [(p.poll, p.desired_min_tx_us) for p in sent(machine)] == [(True, 2_000_000)]
    machine.receive(final, 1.0)
    assert (machine.transmit_us, machine.detection_us) == (2_000_000, 6_000_000)


def test_faster_timers_wait_before_being_less_patient():
    machine = session()
    up(machine, 0.0)
    machine.set_timers(SessionTimers(50_000, 3), 0.0)
    machine.receive(Packet(SessionState.UP, 3, 7, 1, 50_000, 50_000), 0.0)
    assert (machine.transmit_us, machine.detection_us) == (50_000, 900_000)
    machine.receive(Packet(SessionState.UP, 3, 7, 1, 50_000, 50_000, final=True), 0.1)
    assert machine.detection_us == 150_000


def test_neighbor_in_demand_mode_is_left_in_peace():
    machine = session()
    up(machine, 0.0)
    machine.receive(Packet(SessionState.UP, 3, 7, 1, 300_000, 300_000, demand=True), 0.1)
    machine.handle_timer(0.5)
    assert sent(machine) == []
    machine.receive(Packet(SessionState.UP, 3, 7, 1, 300_000, 0), 0.5)
    machine.handle_timer(0.9)
    assert sent(machine) == [], "nor is one that wants to hear nothing"
    machine.receive(Packet(SessionState.UP, 3, 7, 1, 300_000, 300_000), 0.9)
    machine.handle_timer(0.9)
    assert len(sent(machine)) == 1


# Two machines at one line


class Line:
    """Two sessions, and a channel that loses and delays packets; time is simulated."""

    def __init__(self, seed: int, loss: float, delay_s: float, timers: tuple[SessionTimers, SessionTimers]) -> None:
        self.random = random.Random(seed)
        self.loss, self.delay_s, self.cut, self.now = loss, delay_s, False, 0.0
        self.ends = [BfdSession(number, t, 0.0, self.random.random) for number, t in enumerate(timers, 1)]
        self.changes: list[tuple[float, int, StateChange]] = []
        self._flying: list[tuple[float, int, int, bytes]] = []
        self._count = itertools.count()

    def run(self, until: float) -> None:
        while True:
            due = min([end.next_timer() for end in self.ends] + [item[0] for item in self._flying[:1]])
            if due > until:
                self.now = until
                return
            self.now = max(self.now, due)
            while self._flying and self._flying[0][0] <= self.now:
                _at, _order, to, data = heapq.heappop(self._flying)
                packet = decode(data)
                assert packet is not None
                self.ends[to].receive(packet, self.now)
            for place, end in enumerate(self.ends):
                end.handle_timer(self.now)
                self.changes += [(self.now, place, change) for change in end.changes()]
                for packet in end.outgoing():
                    if not self.cut and self.random.random() >= self.loss:
                        at = self.now + self.random.random() * self.delay_s
                        heapq.heappush(self._flying, (at, next(self._count), 1 - place, packet.encode()))

    @property
    def states(self) -> set[SessionState]:
        return {end.state for end in self.ends}


some_timers = st.builds(SessionTimers, st.sampled_from([50_000, 100_000, 300_000, 2_000_000]), st.integers(2, 5))


@settings(max_examples=30, deadline=None)
@given(st.integers(), st.floats(0, 0.3), st.floats(0, 0.04), some_timers, some_timers)
def test_two_ends_find_each_other_over_a_bad_line_and_notice_when_it_is_cut(
    seed: int, loss: float, delay_s: float, one: SessionTimers, other: SessionTimers
):
    line = Line(seed, loss, delay_s, (one, other))
    line.run(40.0)
    assert any(change.new is SessionState.UP for _at, _place, change in line.changes), "up at least once"
    line.loss = 0.0
    line.run(70.0)
    assert line.states == {SessionState.UP}
    assert not any(end._polling for end in line.ends), "and negotiated"
    quiet = len(line.changes)
    line.run(90.0)
    assert line.changes[quiet:] == [], "and so it stays"
    slower_us = max(one.interval_us, other.interval_us)
    assert [end.detection_us for end in line.ends] == [m * slower_us for m in (other.multiplier, one.multiplier)]
    line.cut = True
    line.run(line.now + max(one.multiplier, other.multiplier) * slower_us / 1e6 + delay_s)
    failures = [change for _at, _place, change in line.changes[quiet:] if change.old is SessionState.UP]
    assert [change.diagnostic for change in failures] == [Diagnostic.TIME_EXPIRED] * 2
    assert all(change.failure for change in failures)
    line.cut = False
    line.run(line.now + 40.0)
    assert line.states == {SessionState.UP}


@settings(max_examples=10, deadline=None)
@given(st.integers(), some_timers)
def test_one_end_shut_is_no_failure_at_the_other(seed: int, timers: SessionTimers):
    line = Line(seed, 0.0, 0.01, (timers, timers))
    line.run(20.0)
    assert line.states == {SessionState.UP}
    before = len(line.changes)
    line.ends[0].shut(line.now)
    line.run(40.0)
    assert {place: (change.new, change.failure) for _at, place, change in line.changes[before:]} == {
        0: (SessionState.ADMIN_DOWN, False),
        1: (SessionState.DOWN, False),
    }
