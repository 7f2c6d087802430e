# SPDX-License-Identifier: Apache-2.0
"""The rule of a single burst, and what proves that a silence is the other node's."""

import pytest

from agent.liveness.burst import BACK_S, INTERVAL_S, QUESTIONS, VOIDS, Burst, Due
from agent.liveness.isolation import ISOLATION_S, PROOF_AFTER_S, Isolation

LAST = INTERVAL_S * (QUESTIONS - 1)


def asked(count: int, now: float = 0.0) -> Burst:
    burst = Burst(now, prompted=False)
    for _ in range(count):
        assert burst.due() is Due.ASK
        burst.ask(burst.next_at)
    return burst


def test_eight_questions_then_the_verdict() -> None:
    burst = asked(QUESTIONS)
    assert burst.due() is Due.VERDICT
    assert burst.next_at == pytest.approx(0.24)
    assert burst.last_asked == pytest.approx(LAST)


def test_suspect_after_three_questions() -> None:
    assert [asked(count).is_suspect for count in range(5)] == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("answered", "back"),
    [
        ([], False),
        ([0.0], False),
        ([0.0, 0.03, 0.06], False),
        ([0.0, 0.03, 0.06, 0.09], False),  # too soon
        ([0.0, 0.2], False),  # too few
        ([0.0, 0.03, 0.06, BACK_S], True),
        ([BACK_S, 0.06, 0.03, 0.0], True),  # in any order
    ],
)
def test_back_after_several_answers_over_a_while(answered: list[float], back: bool) -> None:
    burst = Burst(0.0, prompted=False)
    for sent in answered:
        burst.answered(sent)
    assert burst.is_back == back


def test_a_void_burst_begins_again_but_not_forever() -> None:
    burst = asked(5)
    burst.void(1.0)
    assert (burst.start, burst.next_at, burst.due(), burst.is_suspect) == (1.0, 1.0, Due.ASK, False)
    for _ in range(VOIDS):
        burst.void(2.0)
    for _ in range(QUESTIONS):
        burst.ask(burst.next_at)
        burst.void(3.0)
    assert burst.due() is Due.VERDICT


@pytest.mark.parametrize(
    ("sent", "proves"),
    [(-1.0, False), (PROOF_AFTER_S - 0.001, False), (PROOF_AFTER_S, True), (LAST, True), (LAST + 0.001, False)],
)
def test_only_an_answer_from_the_later_part_of_a_burst_proves_a_silence(sent: float, proves: bool) -> None:
    """Before it, and after the last question, this node's link may have been up while the burst met it down."""
    isolation = Isolation()
    isolation.answered(sent)
    assert isolation.believes(0.0, LAST, 0.24) == proves
    assert (isolation.since is None) == proves


def test_many_answers_in_between_do_not_hide_the_proof() -> None:
    isolation = Isolation()
    for i in range(1000):
        isolation.answered(i / 1000)
    assert isolation.believes(0.7, 0.7 + LAST, 1.0)
    isolation.answered(1.8)
    assert not isolation.has_answer(0.0, 0.7), "no more is kept than a second"


def test_isolation_ends_with_an_answer_or_by_itself() -> None:
    isolation = Isolation()
    assert not isolation.believes(0.0, LAST, 0.24)
    assert isolation.answered(0.3)
    assert not isolation.answered(0.4)
    assert not isolation.believes(1.0, 1.0 + LAST, 1.24)
    assert not isolation.expire(1.24 + ISOLATION_S - 0.01)
    assert isolation.expire(1.24 + ISOLATION_S)
    assert isolation.believes(9.0, 9.0 + LAST, 9.24), "it may be the only one left"
    isolation.answered(10.0)
    assert not isolation.believes(11.0, 11.0 + LAST, 11.24)
