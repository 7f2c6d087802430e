# SPDX-License-Identifier: Apache-2.0
"""The asker's rules, each by itself: one asker, or a few, on a virtual clock."""

import random
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.echo_net import ROUTER, EchoNet, addresses, answer
from support.examples import examples
from support.one_asker import SILENT, UP, A, B, C, D, ask_b, net, state, step_until

from agent.liveness.asker import UNREACHABLE_S, Asker
from agent.liveness.question import Question, Via
from bpf.layout.echo import EchoMessage


def test_each_node_is_asked_at_first_contact_and_in_rounds() -> None:
    made = EchoNet(addresses(11), [A], 1)
    made.run(0.06)
    assert all(state(made, address) is UP for address in addresses(11)[1:])
    before = {address: made.askers[A].stats(address)[Via.PLAIN].asked for address in addresses(11)[1:]}
    made.run(5)
    asked = {address: made.askers[A].stats(address)[Via.PLAIN].asked - before[address] for address in before}
    assert all(9 <= count <= 11 for count in asked.values()), "20 questions a second, to ten nodes in turn"


def test_a_node_that_does_not_answer_is_silent_after_a_burst() -> None:
    made = net()
    made.down.add(B)
    made.hint(A, B)
    made.run(0.2)
    assert state(made) is UP
    made.run(0.06)
    assert state(made) is SILENT
    assert [state(made, address) for address in (C, D)] == [UP, UP]


def test_a_round_finds_it_without_a_hint() -> None:
    made = net()
    made.down.add(B)
    made.run(0.5)
    assert state(made) is SILENT


def test_a_hint_costs_a_living_node_one_question() -> None:
    made = net(64, router=False)
    before = made.asked
    made.hint(A, B)
    made.run(0.04)
    assert made.asked <= before + 2, "the hint's, and one of the rounds"


def test_a_slow_answer_counts() -> None:
    made = net(delay_s=0.06)
    made.run(30)
    assert made.verdicts == []


def test_a_suspect_is_reported_before_the_verdict() -> None:
    made = net()
    asker = made.askers[A]
    made.down.add(B)
    reported: list[IPv4Address] = []
    asker.take_suspects = lambda: reported  # type: ignore[method-assign]
    made.run(0.5)
    assert state(made) is SILENT
    del asker.take_suspects  # type: ignore[method-assign]
    assert asker.take_suspects() == [B]
    assert asker.take_suspects() == []


def test_back_needs_several_answers_over_a_while() -> None:
    made = net()
    made.down.add(B)
    made.run(1)
    at = made.now
    made.down.discard(B)
    made.run(0.6)
    assert state(made) is UP
    assert 0.1 <= made.askers[A].liveness[B].since - at <= 0.25 + 0.15, "a question each 250 ms, then the burst"


def test_one_answer_does_not_bring_a_silent_node_back() -> None:
    asker, _, now = ask_b()
    router = [question for question in step_until(asker, now, now + 6) if question.via is Via.PING]
    assert router == []
    assert asker.liveness[B].answers is SILENT, "alone for longer than an isolation lasts"
    asked = step_until(asker, now + 6, now + 6.3)
    asker.receive(B, answer(asked[-1]), now + 6.3)
    step_until(asker, now + 6.3, now + 8)
    assert asker.liveness[B].answers is SILENT


def test_a_stalled_loop_judges_no_node() -> None:
    """The observer stops for a while, again and again, and what arrives meanwhile is lost."""
    made = net()
    for _ in range(60):
        made.behind[A] = made.now + 0.3
        made.down |= {B, C, D}
        made.run(0.299)
        made.down.clear()
        made.run(0.3)
    assert made.verdicts == []


@pytest.mark.parametrize("late", [False, True])
def test_a_burst_in_which_the_asker_was_late_is_repeated(late: bool) -> None:
    """C answers, B does not; the step in the middle of B's burst is late by more than 25 ms, or by less."""
    asker, now, silent_at, delay_s = Asker(A, random.Random(1)), 10.0, 0.0, 0.026 if late else 0.02
    asker.follow([B, C], now)
    for question in asker.step(now):
        asker.receive(IPv4Address(question.address), answer(question), now)
    asker.hint(B, now)
    while now < 11 and not silent_at:
        now = max(now, asker.next_at)
        if now > 10.13:
            now, delay_s = now + delay_s, 0.0
        for question in asker.step(now):
            if question.address == C:
                asker.receive(C, answer(question), now)
        if asker.liveness[B].answers is SILENT:
            silent_at = now
    assert (10.39 if late else 10.24) < silent_at < (10.44 if late else 10.29)


def test_answers_that_wait_in_the_socket_are_no_silence() -> None:
    made = net()
    for _ in range(60):
        made.hint(A, B)
        made.run(0.001)
        made.behind[A] = made.now + 1.5
        made.run(2)
    assert made.verdicts == []


def test_an_observer_that_is_always_late_still_finds_a_dead_node() -> None:
    made = net(jitter_s=0.08)
    made.down.add(B)
    made.run(10)
    assert state(made) is SILENT
    assert [verdict[2] for verdict in made.verdicts] == [B]


def test_a_question_that_could_not_be_sent_is_no_silence() -> None:
    asker, question, now = ask_b()
    asker.receive(B, answer(question), now)
    while now < 20:
        now = asker.next_at
        for question in asker.step(now):
            asker.not_sent(question, now)
        if now > 15:
            asker.hint(B, now)
    assert asker.liveness[B].answers is UP
    assert asker.stats(B)[Via.PLAIN].asked == 1


def test_a_node_without_a_next_hop_that_never_answered_counts_as_silent() -> None:
    asker, _, now = ask_b()
    states = {}
    while now < 10 + UNREACHABLE_S + 1:
        now = asker.next_at
        for question in asker.step(now):
            asker.not_sent(question, now)
        states[asker.liveness[B].answers] = now
    assert list(states) == [None, SILENT]
    assert UNREACHABLE_S - 0.5 < states[None] - 10 < UNREACHABLE_S + 0.5


def test_many_hints_are_spread_and_none_is_forgotten() -> None:
    made = net(1000)
    made.run(2)
    dead = addresses(1000)[600:]
    made.down |= set(dead)
    for address in addresses(1000)[1:]:
        made.hint(A, address)
    before = made.asked
    made.run(0.09)
    assert made.asked - before < 128 * 4 + 50
    made.run(1.2)
    assert [address for address in addresses(1000)[1:] if state(made, address) is SILENT] == dead


def test_the_clock_never_goes_back() -> None:
    asker, question, now = ask_b()
    asker.receive(B, answer(question), now)
    step_until(asker, now, now + 0.01)
    asker.hint(B, 3.0)
    assert [question.address for question in asker.step(3.0)] == [B]
    assert asker.next_at > now


@examples(60)
@given(st.data())
def test_whatever_happens_questions_are_bounded_and_the_clock_goes_on(data: st.DataObject) -> None:
    """Followed sets, hints, answers, forgeries, lost sends and jumps of the clock in any order."""
    every = addresses(6)
    asker, now, followed = Asker(A, random.Random(data.draw(st.integers(0, 9)))), 100.0, set(every[1:3])
    asker.follow(followed, now, (ROUTER,), (Via.GUE,))
    asked: list[Question] = []
    for _ in range(data.draw(st.integers(1, 80))):
        kind = data.draw(
            st.sampled_from(["step", "step", "answer", "follow", "hint", "unsent", "jump", "late", "forge"])
        )
        if kind == "step":
            now = max(now, min(asker.next_at, now + 1))
            asked = asker.step(now) + asked[:50]
            assert asker.next_at > now
        elif kind == "answer" and asked:
            one = data.draw(st.sampled_from(asked))
            if one.via is Via.PING:
                asker.receive_ping(one.address, one.nonce, now)
            else:
                asker.receive(IPv4Address(one.address), answer(one, boot=data.draw(st.integers(1, 3))), now)
        elif kind == "follow":
            followed = data.draw(st.sets(st.sampled_from(every[1:])))
            asker.follow(followed, now, (ROUTER,), data.draw(st.sampled_from([(), (Via.GUE,), (Via.MARKER,)])))
        elif kind == "hint":
            asker.hint(data.draw(st.sampled_from(every)), now)
        elif kind == "unsent" and asked:
            asker.not_sent(data.draw(st.sampled_from(asked)), now)
        elif kind == "jump":
            now += data.draw(st.sampled_from([-5.0, 0.01, 0.3, 20.0]))
            now = max(now, 1.0)
        elif kind == "late":
            asker.late(now)
        elif kind == "forge":
            forged = EchoMessage(answer(Question(B, 1, Via.PLAIN)).kind, 1, data.draw(st.integers(0, 2**64 - 1)))
            asker.receive(data.draw(st.sampled_from(every)), forged, now)
        assert set(asker.liveness) == followed
        assert set(asker.take_suspects()) <= set(every)
    now = max(now, 150.0)
    for _ in range(400):
        asked = asker.step(now)
        assert len(asked) <= 30
        if not followed:
            break
        assert asker.next_at > now, "a step does all that is due"
        now = asker.next_at


def test_no_node_to_ask() -> None:
    asker = Asker(A, random.Random(1))
    asker.follow([A], 1.0)
    assert asker.step(1.0) == []
    assert asker.liveness == {}
    assert asker.next_at == float("inf")
