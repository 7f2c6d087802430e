# SPDX-License-Identifier: Apache-2.0
"""What an asker reports of the nodes by their answers."""

import pytest
from support.echo_net import answer
from support.one_asker import SILENT, UP, A, B, ask_b, net, state, step_until

from agent.liveness.question import Liveness, Via
from bpf.layout.echo import EchoFlag


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
    """What such a node published before may be outdated: it is greeted at once."""
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
