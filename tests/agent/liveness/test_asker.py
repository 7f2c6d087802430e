# SPDX-License-Identifier: Apache-2.0
"""The asker's rules, each by itself: one asker, or a few, on a virtual clock."""

import random
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.echo_net import ROUTER, EchoNet, addresses, answer

from agent.liveness.asker import UNREACHABLE_S, Asker
from agent.liveness.isolation import ISOLATION_S, QUIET_S
from agent.liveness.question import Liveness, Question, Via
from bpf.layout.echo import EchoFlag, EchoMessage, Way

A, B, C, D = addresses(4)
UP, SILENT = True, False


def net(count: int = 4, seed: int = 1, **options: object) -> EchoNet:
    """One observer, A, of several nodes, which have all answered."""
    made = EchoNet(addresses(count), [A], seed, **options)  # type: ignore[arg-type]
    made.run(1)
    return made


def state(made: EchoNet, address: IPv4Address = B) -> bool | None:
    return made.askers[A].liveness[address].answers


def ask_b(seed: int = 1) -> tuple[Asker, Question, float]:
    """An asker of B alone, and its first question."""
    asker = Asker(A, random.Random(seed))
    asker.follow([B], 10.0)
    return asker, asker.step(10.0)[0], 10.0


def step_until(asker: Asker, now: float, end: float) -> list[Question]:
    """Step at the asker's own times, without an answer; return the questions."""
    asked = []
    while asker.next_at <= end:
        now = max(now, asker.next_at)
        asked += asker.step(now)
    return asked


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


def test_a_cut_off_observer_judges_no_node() -> None:
    made = net()
    made.down |= {B, C, D, ROUTER}
    made.run(1)
    asker = made.askers[A]
    assert asker.isolated
    assert [state(made, address) for address in (B, C, D)] == [UP, UP, UP]
    made.down -= {C, ROUTER}
    made.run(1)
    assert not asker.isolated
    assert [state(made, address) for address in (B, C, D)] == [SILENT, UP, SILENT]


def test_the_router_proves_that_the_observer_is_not_cut_off() -> None:
    made = net(2)
    made.down.add(B)
    made.run(0.5)
    assert state(made) is SILENT
    assert not made.askers[A].isolated


def test_a_router_proves_nothing_while_nodes_ask() -> None:
    """They live, and something here drops their answers: a packet filter that closes the port."""
    made = net()
    asker = made.askers[A]
    made.down |= {B, C, D}
    for _ in range(200):
        asker.questioned(made.now)
        made.run(0.05)
    assert asker.isolated, "longer than a silent isolation lasts"
    assert asker.is_asked(made.now)
    assert [state(made, address) for address in (B, C, D)] == [UP, UP, UP]
    made.run(QUIET_S + 0.5)
    assert (asker.isolated, asker.is_asked(made.now)) == (False, False), "they ask no more"
    assert [state(made, address) for address in (B, C, D)] == [SILENT, SILENT, SILENT]


def test_a_node_that_answers_proves_it_while_nodes_ask() -> None:
    made = net()
    made.down |= {B, C}
    for _ in range(20):
        made.askers[A].questioned(made.now)
        made.run(0.05)
    assert [state(made, address) for address in (B, C, D)] == [SILENT, SILENT, UP]


def test_the_last_question_of_a_dead_node_delays_nothing() -> None:
    made = net(2)
    made.askers[A].questioned(made.now)
    made.down.add(B)
    made.run(0.5)
    assert state(made) is SILENT


def test_an_isolated_node_serves_alone_after_five_seconds() -> None:
    made = net()
    made.down |= {B, C, D, ROUTER}
    made.run(ISOLATION_S)
    assert made.askers[A].isolated
    made.run(1)
    assert not made.askers[A].isolated
    assert [state(made, address) for address in (B, C, D)] == [SILENT, SILENT, SILENT]
    made.down.clear()
    made.run(1)
    assert [state(made, address) for address in (B, C, D)] == [UP, UP, UP]


@pytest.mark.parametrize("seconds", [0.05 * i for i in range(1, 20)] + [2, 4, 4.9])
def test_a_short_cut_changes_nothing(seconds: float) -> None:
    made = net()
    made.down |= {A}
    made.run(seconds)
    made.down.clear()
    made.run(3)
    assert made.verdicts == []
    assert not made.askers[A].isolated


def test_a_stalled_loop_judges_no_node() -> None:
    """The observer stands still for a while, again and again, and what arrives meanwhile is lost."""
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


class TestForgery:
    """Only the answer to an open question, from the address that was asked, counts, and once."""

    @pytest.mark.parametrize(
        "forge",
        [
            lambda question: (B, replace(answer(question), nonce=question.nonce ^ 1)),
            lambda question: (C, answer(question)),
            lambda question: (ROUTER, answer(question)),
            lambda question: (B, replace(answer(question), way=Way.TUNNEL)),
        ],
    )
    def test_a_forged_answer_counts_for_nothing(self, forge: object) -> None:
        asker, question, now = ask_b()
        asker.receive(*forge(question), now)  # type: ignore[operator]
        assert asker.liveness[B].answers is None
        asker.receive(B, answer(question), now)
        assert asker.liveness[B].answers is UP, "a forgery does not close the question"

    def test_a_replay_keeps_no_dead_node_alive(self) -> None:
        asker, question, now = ask_b()
        asker.receive(B, answer(question), now)
        for _ in range(1000):
            now = max(now, asker.next_at)
            asker.step(now)
            asker.receive(B, answer(question), now)
            asker.receive_ping(B, question.nonce, now)
        assert asker.liveness[B].answers is SILENT

    def test_an_answer_later_than_a_second_is_none(self) -> None:
        asker, question, now = ask_b()
        step_until(asker, now, now + 1.01)
        asker.receive(B, answer(question), now + 1.01)
        assert asker.liveness[B].answers is None

    def test_a_node_that_was_forgotten_and_returns_is_new(self) -> None:
        asker, question, now = ask_b()
        asker.follow([C], now)
        asker.follow([B, C], now)
        asker.receive(B, answer(question), now)
        assert asker.liveness[B].answers is None

    def test_an_older_answer_that_arrives_later_says_nothing_new(self) -> None:
        asker, first, now = ask_b()
        second = step_until(asker, now, now + 0.04)[0]
        asker.receive(B, answer(second, boot=2), now + 0.04)
        asker.receive(B, answer(first, boot=1), now + 0.05)
        assert asker.liveness[B].boot == 2


def test_what_an_answer_says() -> None:
    asker, question, now = ask_b()
    content = {"boot": 5, "epochs": (3, 4), "view_digest": 8, "tables_digest": 9, "heartbeat_age_ms": 25_300}
    asker.receive(B, answer(question, **content, flags=EchoFlag.DATA_PATH), now + 0.01)
    assert asker.liveness[B] == Liveness(True, 10.01, 5, False, 20.0, (3, 4), 8, 9, True)
    assert asker.stats(B)[Via.PLAIN].rtt_s == pytest.approx(0.01)


def test_liveness_is_the_same_object_while_nothing_changes() -> None:
    made = net()
    before = made.askers[A].liveness
    made.run(10)
    assert made.askers[A].liveness is before
    made.down.add(B)
    made.run(1)
    assert made.askers[A].liveness is not before
    assert before[B].answers, "what was handed out does not change"


def test_another_boot_is_seen_with_the_next_answer() -> None:
    asker, question, now = ask_b()
    asker.receive(B, answer(question, boot=1), now)
    since = asker.liveness[B].since
    asked = step_until(asker, now, now + 0.06)
    asker.receive(B, answer(asked[0], boot=2), now + 0.06)
    assert (asker.liveness[B].boot, asker.liveness[B].answers, asker.liveness[B].since) == (2, True, since)


def test_a_heartbeat_that_has_become_too_old_is_reported() -> None:
    asker, question, now = ask_b()
    asker.receive(B, answer(question), now)
    for age_ms, reported in ((9_999, []), (10_000, [B]), (20_000, []), (0, [])):
        asked = step_until(asker, now, now + 0.06)
        now += 0.06
        asker.receive(B, answer(asked[-1], heartbeat_age_ms=age_ms), now)
        assert asker.take_suspects() == reported, age_ms
        assert asker.liveness[B].agent_lives == (age_ms < 10_000)


def test_a_node_is_back_once_it_answers_or_its_agent_lives() -> None:
    """What such a node said before may be outdated: it is greeted at once."""
    asker, question, now = ask_b()
    assert asker.take_returned() == []
    asker.receive(B, answer(question, heartbeat_age_ms=10_000), now)
    for age_ms, returned in ((10_000, [B]), (0, []), (0, [B]), (0, [])):
        assert asker.take_returned() == returned
        asked = step_until(asker, now, now + 0.06)
        now += 0.06
        asker.receive(B, answer(asked[-1], heartbeat_age_ms=age_ms), now)
    made = net()
    made.askers[A].take_returned()
    made.down.add(B)
    made.run(1)
    assert (state(made), made.askers[A].take_returned()) == (SILENT, [])
    made.down.clear()
    made.run(1)
    assert (state(made), made.askers[A].take_returned()) == (UP, [B])


class TestPaths:
    """The encapsulations that packets use are asked by too, and silence no node."""

    def test_each_is_asked_at_first_contact_and_then_each_half_minute(self) -> None:
        made = net(vias=(Via.GUE, Via.MARKER))
        stats = made.askers[A].stats(B)
        assert {via: one.asked for via, one in stats.items() if via is not Via.PLAIN} == {Via.GUE: 1, Via.MARKER: 1}
        made.run(300)
        assert 10 <= stats[Via.GUE].asked <= 12
        assert stats[Via.GUE].unanswered == 0
        assert stats[Via.GUE].rtt_s == pytest.approx(0.0002, rel=0.5)

    def test_a_fabric_that_drops_one_is_seen_and_silences_no_node(self) -> None:
        made = net(vias=(Via.GUE, Via.MARKER))
        made.broken.add(Via.GUE)
        made.run(60)
        stats = made.askers[A].stats(B)
        assert stats[Via.GUE].in_a_row >= 4
        assert stats[Via.MARKER].unanswered == stats[Via.PLAIN].unanswered == 0
        assert made.verdicts == []
        made.broken.clear()
        made.run(60)
        assert stats[Via.GUE].in_a_row == 0

    def test_another_encapsulation_is_asked_by_at_once(self) -> None:
        made = net(vias=(Via.GUE,))
        made.askers[A].follow(addresses(4), made.now, vias=(Via.IPIP,))
        made.run(1)
        assert made.askers[A].stats(B)[Via.IPIP].asked == 1

    def test_a_thousand_new_nodes_are_not_asked_all_at_once(self) -> None:
        made = EchoNet(addresses(1000), [A], 1, vias=(Via.GUE,))
        made.run(0.06)
        assert made.asked < 150
        made.run(8)
        assert all(one.answers for one in made.askers[A].liveness.values())
        assert all(Via.GUE in made.askers[A].stats(address) for address in addresses(1000)[1:])


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


@settings(deadline=None, max_examples=60)
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
