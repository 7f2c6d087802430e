# SPDX-License-Identifier: Apache-2.0
"""Which answers count: those to open questions, once."""

from dataclasses import replace

import pytest
from support.echo_net import ROUTER, answer
from support.one_asker import SILENT, UP, B, C, ask_b, step_until

from bpf.layout.echo import Encap


class TestForgery:
    """Only the answer to an open question, from the address that was asked, counts, and once."""

    @pytest.mark.parametrize(
        "forge",
        [
            lambda question: (B, replace(answer(question), nonce=question.nonce ^ 1)),
            lambda question: (C, answer(question)),
            lambda question: (ROUTER, answer(question)),
            lambda question: (B, replace(answer(question), encap=Encap.TUNNEL)),
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
