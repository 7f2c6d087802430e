# SPDX-License-Identifier: Apache-2.0
"""When a connection counts as broken: with time as an argument, without sockets."""

import pytest

from topology.traffic.connection import ATTEMPT_S, SILENCE_S, ConnectionAttempt, ConnectionState, HeldConnection


def opened(now: float = 100.0, owner: str = "b1") -> HeldConnection:
    held = HeldConnection(started_at=now)
    assert held.message(now) == b"0\n"
    held.received(f"{owner} 0\n".encode(), now)
    return held


def test_the_first_answer_names_the_owner() -> None:
    held = HeldConnection(started_at=100.0)
    assert held.state is ConnectionState.OPENING
    held.message(100.0)
    held.received(b"b3 0\n", 100.1)
    assert (held.state, held.owner) == (ConnectionState.OPEN, "b3")


def test_answers_in_order_keep_it_open_at_any_segmentation() -> None:
    held = opened()
    for _ in range(3):
        held.message(100.1)
    held.received(b"b1 1\nb", 100.2)
    held.received(b"1 2", 100.3)
    held.received(b"\nb1 3\n", 100.4)
    assert held.state is ConnectionState.OPEN
    assert held.longest_silence_s == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"b1 2\n", "wrong answer"),  # a number that was not sent
        (b"b1 0\n", "wrong answer"),  # an old number
        (b"b2 1\n", "wrong answer"),  # another server answers
        (b"b1 one\n", "wrong answer"),
        (b"\n", "wrong answer"),
        (b"", "eof"),
    ],
)
def test_anything_but_the_right_answer_breaks_it(answer: bytes, why: str) -> None:
    held = opened()
    held.message(100.1)
    held.received(answer, 100.2)
    assert (held.state, held.reason, held.ended_at) == (ConnectionState.BROKEN, why, 100.2)


def test_an_answer_without_a_message_breaks_it() -> None:
    held = opened()
    held.received(b"b1 1\n", 100.2)
    assert held.state is ConnectionState.BROKEN


def test_a_reset_breaks_it_once() -> None:
    held = opened()
    held.fail("reset", 101.0)
    held.fail("eof", 102.0)
    held.close(103.0)
    assert (held.state, held.reason, held.ended_at) == (ConnectionState.BROKEN, "reset", 101.0)


def test_silence_breaks_it_at_15_s_and_not_before() -> None:
    held = opened(100.0)
    held.message(100.1)
    held.check(100.0 + SILENCE_S - 0.01)
    assert held.state is ConnectionState.OPEN
    held.check(100.0 + SILENCE_S)
    assert (held.state, held.reason) == (ConnectionState.BROKEN, "silence")
    assert held.longest_silence_s == pytest.approx(SILENCE_S)


def test_a_patient_client_waits_longer() -> None:
    held = opened(100.0)
    held.check(100.0 + SILENCE_S, silence_s=60.0)
    assert held.state is ConnectionState.OPEN
    held.check(160.0, silence_s=60.0)
    assert held.state is ConnectionState.BROKEN


def test_the_longest_silence_is_kept_after_it_ended() -> None:
    held = opened(100.0)
    for at in (100.1, 103.2, 103.3):
        number = held.message(at)
        held.received(b"b1 " + number, at)
    assert held.silence_s(103.4) == pytest.approx(3.1)


def test_the_current_silence_counts() -> None:
    assert opened(100.0).silence_s(107.0) == pytest.approx(7.0)


def test_settled_needs_an_answer_to_a_message_sent_since() -> None:
    held = opened(100.0)
    held.message(100.1)
    held.message(100.2)
    held.received(b"b1 1\n", 105.0)
    assert not held.settled(since=100.15)  # it answered after that moment, but a message sent before
    held.received(b"b1 2\n", 105.1)
    assert held.settled(since=100.15)
    assert not held.settled(since=100.3)
    held.fail("reset", 105.2)
    assert held.settled(since=100.3)


def test_a_connection_that_never_opened_failed_and_did_not_break() -> None:
    held = HeldConnection(started_at=100.0)
    held.fail("refused", 100.1)
    assert held.state is ConnectionState.FAILED
    slow = HeldConnection(started_at=100.0)
    slow.check(100.0 + ATTEMPT_S)
    assert (slow.state, slow.reason) == (ConnectionState.FAILED, "timeout")


def test_closing_is_not_breaking() -> None:
    held = opened()
    held.close(101.0)
    assert held.state is ConnectionState.CLOSED
    assert held.settled(since=200.0)


@pytest.mark.parametrize(
    ("pieces", "outcome", "owner"),
    [
        ([b"b2 0\n"], "ok", "b2"),
        ([b"b2", b" 0\n"], "ok", "b2"),
        ([b"b2 1\n"], "wrong answer", "b2"),
        ([b"b2 0\nb2 1\n"], "wrong answer", "b2"),
        ([b"what\n"], "wrong answer", ""),
        ([b"b2 0", b""], "eof", ""),
    ],
)
def test_an_attempt_needs_exactly_one_right_answer(pieces: list[bytes], outcome: str, owner: str) -> None:
    attempt = ConnectionAttempt(started_at=100.0)
    for piece in pieces:
        attempt.received(piece)
    assert (attempt.outcome, attempt.owner) == (outcome, owner)


def test_an_attempt_has_5_s() -> None:
    attempt = ConnectionAttempt(started_at=100.0)
    attempt.check(100.0 + ATTEMPT_S, attempt_s=ATTEMPT_S + 1)
    attempt.check(100.0 + ATTEMPT_S - 0.01)
    assert attempt.outcome == ""
    attempt.check(100.0 + ATTEMPT_S)
    assert attempt.outcome == "timeout"
    attempt.fail("reset")
    assert attempt.outcome == "timeout"
