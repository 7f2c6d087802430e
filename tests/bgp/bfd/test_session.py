# SPDX-License-Identifier: Apache-2.0
"""A BFD session without sockets and clocks: the state machine and its timers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.bfd.packet import Diagnostic, Packet, SessionState
from bgp.bfd.session import BfdSession, SessionTimers, StateChange

FAST = SessionTimers(300_000, 3)
FIRST = Packet(SessionState.DOWN, 3, 7, 0, 1_000_000, 300_000)
"""The first packet of a neighbor with discriminator 7."""


def new_session(timers: SessionTimers = FAST, number: int = 1, jitter: float = 0.0) -> BfdSession:
    return BfdSession(number, timers, 0.0, lambda: jitter)


def bring_up(session: BfdSession, now: float = 0.0, first: Packet = FIRST) -> None:
    """Bring the session up, and answer its Poll."""
    session.receive(first, now)
    session.receive(replace(first, state=SessionState.INIT, your_discriminator=session.discriminator), now)
    fast = replace(first, state=SessionState.UP, your_discriminator=session.discriminator, desired_min_tx_us=300_000)
    session.receive(replace(fast, final=True), now)
    assert session.state is SessionState.UP
    session.outgoing()
    session.changes()


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
def test_any_packets_keep_the_state_machine_consistent(received: list[tuple[Packet, float]]):
    """For any packets it answers at most twice, schedules a later timer, and reports each change of its state."""
    session, now, state = new_session(), 0.0, SessionState.DOWN
    for packet, pause in received:
        now += pause
        session.receive(packet, now)
        session.handle_timer(now)
        assert session.next_timer() > now or session.transmit_us == 0
        assert len(session.outgoing()) <= 4
        for change in session.changes():
            assert change.old is state
            state = change.new
            assert not change.failure or (change.old, change.new) == (SessionState.UP, SessionState.DOWN)
        assert session.state is state


# The state machine


def test_three_packets_bring_the_session_up_and_each_is_answered_at_once():
    session = new_session()
    session.handle_timer(0.0)
    assert [(p.state, p.your_discriminator) for p in session.outgoing()] == [(SessionState.DOWN, 0)]
    session.receive(FIRST, 0.1)
    assert [(p.state, p.your_discriminator) for p in session.outgoing()] == [(SessionState.INIT, 7)]
    session.receive(replace(FIRST, state=SessionState.UP, your_discriminator=1), 0.2)
    assert [(p.state, p.desired_min_tx_us) for p in session.outgoing()] == [(SessionState.UP, 300_000)]
    assert session.changes() == [
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
    session = new_session()
    if ours is SessionState.INIT:
        session.receive(FIRST, 0.0)
    elif ours is SessionState.UP:
        bring_up(session)
    elif ours is SessionState.ADMIN_DOWN:
        session.shut(0.0)
    assert session.state is ours
    session.receive(replace(FIRST, state=theirs, your_discriminator=1), 0.1)
    assert session.state is after


@pytest.mark.parametrize(("received", "failure"), [(SessionState.DOWN, True), (SessionState.ADMIN_DOWN, False)])
def test_down_of_the_neighbor_is_a_failure_and_admin_down_is_not(received: SessionState, failure: bool):
    session = new_session()
    bring_up(session)
    session.receive(replace(FIRST, state=received, your_discriminator=1), 0.1)
    assert session.changes() == [StateChange(SessionState.UP, SessionState.DOWN, Diagnostic.NEIGHBOR_DOWN, failure)]


def test_restarted_neighbor_is_a_failure_at_the_detection_time():
    """Its packets no longer contain our discriminator: what they say may be forged."""
    session = new_session()
    bring_up(session, 0.0)
    for state in (SessionState.DOWN, SessionState.ADMIN_DOWN):
        session.receive(replace(FIRST, my_discriminator=8, state=state), 0.5)
    assert session.changes() == []
    session.handle_timer(0.91)
    assert [change.failure for change in session.changes()] == [True], "they did not extend the detection time"
    session.receive(replace(FIRST, my_discriminator=8), 1.0)
    assert session.state is SessionState.INIT
    assert session.outgoing()[-1].your_discriminator == 8


def test_packet_for_another_session_is_ignored():
    session = new_session()
    bring_up(session, 0.0)
    session.receive(replace(FIRST, your_discriminator=2), 0.5)
    assert session.state is SessionState.UP
    session.handle_timer(0.91)
    assert session.state is SessionState.DOWN, "nor did it extend the detection time"


def test_shut_sends_admin_down_and_ignores_packets():
    session = new_session()
    bring_up(session)
    session.shut(0.1)
    assert [(p.state, p.diagnostic) for p in session.outgoing()] == [(SessionState.ADMIN_DOWN, Diagnostic.ADMIN_DOWN)]
    assert session.changes() == [
        StateChange(SessionState.UP, SessionState.ADMIN_DOWN, Diagnostic.ADMIN_DOWN, failure=False)
    ]
    session.receive(replace(FIRST, poll=True), 0.2)
    assert session.outgoing() == []


# SessionTimers


def test_silence_for_the_detection_time_is_a_failure():
    session = new_session()
    bring_up(session, 10.0)
    assert session.detection_us == 900_000
    session.handle_timer(10.899)
    assert session.state is SessionState.UP
    session.handle_timer(10.9)
    assert session.changes() == [StateChange(SessionState.UP, SessionState.DOWN, Diagnostic.TIME_EXPIRED, failure=True)]
    last = session.outgoing()[-1]
    assert (last.state, last.diagnostic, last.your_discriminator) == (SessionState.DOWN, Diagnostic.TIME_EXPIRED, 0)


def test_silence_before_up_is_no_failure():
    session = new_session()
    session.receive(FIRST, 0.0)
    assert session.state is SessionState.INIT
    session.handle_timer(3.0)
    assert session.changes()[-1] == StateChange(
        SessionState.INIT, SessionState.DOWN, Diagnostic.TIME_EXPIRED, failure=False
    )


def test_the_slower_end_determines_the_interval():
    session = new_session()
    bring_up(session, 0.0, replace(FIRST, multiplier=5, required_min_rx_us=400_000))
    slow = Packet(SessionState.UP, 5, 7, 1, 700_000, 400_000)
    session.receive(slow, 1.0)
    assert session.transmit_us == 400_000
    assert session.detection_us == 5 * 700_000


@pytest.mark.parametrize(("jitter", "interval"), [(0.0, 0.3), (0.999, 0.3 * 0.75025)])
def test_jitter_shortens_the_interval_by_up_to_a_quarter(jitter: float, interval: float):
    session = new_session(jitter=jitter)
    bring_up(session, 0.0)
    session.handle_timer(session.next_timer())
    session.outgoing()
    began = session._sent_at
    session.receive(Packet(SessionState.UP, 3, 7, 1, 300_000, 300_000), began)
    assert session.next_timer() - began == pytest.approx(interval)
    session.handle_timer(began + interval - 0.001)
    assert session.outgoing() == []
    session.handle_timer(began + interval)
    assert len(session.outgoing()) == 1


def test_one_packet_a_second_until_up():
    session = new_session()
    session.handle_timer(0.0)
    assert session.next_timer() == 1.0
    assert session.outgoing()[0].desired_min_tx_us == 1_000_000
    bring_up(session, 0.0)
    session.receive(replace(FIRST, your_discriminator=1), 0.1)
    assert session.state is SessionState.DOWN
    assert session.outgoing()[-1].desired_min_tx_us == 1_000_000
    assert session.next_timer() == pytest.approx(1.1)


def test_change_to_the_fast_interval_is_polled_until_a_final():
    session = new_session()
    session.receive(FIRST, 0.0)
    session.receive(replace(FIRST, state=SessionState.INIT, your_discriminator=1), 0.0)
    assert [p.poll for p in session.outgoing()] == [False, True]
    session.handle_timer(0.3)
    assert [p.poll for p in session.outgoing()] == [True], "already at the fast interval"
    session.receive(Packet(SessionState.UP, 3, 7, 1, 300_000, 300_000, final=True), 0.3)
    session.handle_timer(0.6)
    assert [p.poll for p in session.outgoing()] == [False]


def test_poll_is_answered_at_once_with_final_and_no_poll():
    session = new_session()
    session.receive(FIRST, 0.0)
    session.receive(replace(FIRST, state=SessionState.INIT, your_discriminator=1), 0.0)
    session.outgoing()
    session.receive(Packet(SessionState.UP, 3, 7, 1, 300_000, 300_000, poll=True), 0.01)
    assert [(p.final, p.poll) for p in session.outgoing()] == [(True, False)]


def test_slower_timers_wait_for_the_final():
    session = new_session()
    bring_up(session, 0.0)
    session.set_timers(SessionTimers(1_000_000, 3), 0.0)
    assert [(p.poll, p.desired_min_tx_us) for p in session.outgoing()] == [(True, 1_000_000)]
    assert (session.transmit_us, session.detection_us) == (300_000, 3_000_000), (
        "no slower, but already with the longer detection time"
    )
    session.set_timers(SessionTimers(2_000_000, 3), 0.1)
    assert session.outgoing()[0].desired_min_tx_us == 1_000_000, "one Poll Sequence at a time"
    final = Packet(SessionState.UP, 3, 7, 1, 300_000, 300_000, final=True)
    session.receive(final, 0.2)
    assert session.transmit_us == 1_000_000
    session.handle_timer(session.next_timer())
    assert [(p.poll, p.desired_min_tx_us) for p in session.outgoing()] == [(True, 2_000_000)]
    session.receive(final, 1.0)
    assert (session.transmit_us, session.detection_us) == (2_000_000, 6_000_000)


def test_faster_timers_keep_the_longer_detection_time_until_the_final():
    session = new_session()
    bring_up(session, 0.0)
    session.set_timers(SessionTimers(50_000, 3), 0.0)
    session.receive(Packet(SessionState.UP, 3, 7, 1, 50_000, 50_000), 0.0)
    assert (session.transmit_us, session.detection_us) == (50_000, 900_000)
    session.receive(Packet(SessionState.UP, 3, 7, 1, 50_000, 50_000, final=True), 0.1)
    assert session.detection_us == 150_000


def test_neighbor_in_demand_mode_gets_no_packets():
    session = new_session()
    bring_up(session, 0.0)
    session.receive(Packet(SessionState.UP, 3, 7, 1, 300_000, 300_000, demand=True), 0.1)
    session.handle_timer(0.5)
    assert session.outgoing() == []
    session.receive(Packet(SessionState.UP, 3, 7, 1, 300_000, 0), 0.5)
    session.handle_timer(0.9)
    assert session.outgoing() == [], "nor with Required Min RX 0"
    session.receive(Packet(SessionState.UP, 3, 7, 1, 300_000, 300_000), 0.9)
    session.handle_timer(0.9)
    assert len(session.outgoing()) == 1
