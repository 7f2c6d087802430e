# SPDX-License-Identifier: Apache-2.0
"""Rise and fall as a table of answers. Time is an argument."""

import pytest

from agent.health.rise_fall import Health, disable_by_file, judge, pause_s


@pytest.mark.parametrize(
    ("start", "answers", "expected"),
    [
        # rise 2, fall 3; + good, - bad, and U up, D down after each
        ("D", "++++", "DUUU"),
        ("D", "+-+-+", "DDDDD"),
        ("D", "+-++", "DDDU"),
        ("U", "--+--", "UUUUU"),
        ("U", "---", "UUD"),
        ("U", "---++", "UUDDU"),
        ("D", "-----", "DDDDD"),
    ],
)
def test_rise_and_fall(start: str, answers: str, expected: str) -> None:
    health = Health(healthy=start == "U", streak=0, since=0.0, why="")
    seen = ""
    for now, answer in enumerate(answers, 1):
        health = judge(health, answer == "+", answer, rise=2, fall=3, now=float(now))
        seen += "U" if health.healthy else "D"
    assert seen == expected


def test_since_is_the_time_of_the_change() -> None:
    health = judge(Health.unknown(1.0), True, "ok", rise=1, fall=1, now=7.0)
    assert (health.healthy, health.since, health.why) == (True, 7.0, "ok")
    assert judge(health, True, "ok", rise=1, fall=1, now=9.0).since == 7.0


def test_file_disables_at_once_and_recovery_takes_a_full_rise() -> None:
    health = disable_by_file(Health(healthy=True, streak=0, since=1.0, why="ok"), "/etc/off", now=5.0)
    assert (health.healthy, health.since, health.why) == (False, 5.0, "disabled: /etc/off exists")
    assert disable_by_file(health, "/etc/off", now=6.0) == health
    assert disable_by_file(judge(health, True, "ok", rise=3, fall=1, now=7.0), "/etc/off", now=8.0).streak == 0
    once = judge(health, True, "ok", rise=2, fall=1, now=9.0)
    assert not once.healthy
    assert judge(once, True, "ok", rise=2, fall=1, now=10.0).healthy


def test_interval_is_shorter_while_answers_contradict_the_state() -> None:
    steady = Health(healthy=True, streak=0, since=1.0, why="ok")
    contradicted = judge(steady, False, "refused", rise=2, fall=3, now=2.0)
    assert (pause_s(steady, 5.0, 0.5), pause_s(contradicted, 5.0, 0.5), pause_s(contradicted, 5.0, None)) == (
        5.0,
        0.5,
        5.0,
    )
    # With interval 5 s and fall 3, a change takes 5 + 0.5 + 0.5 s, not 15.
    assert pause_s(judge(judge(contradicted, False, "", 2, 3, 3.0), False, "", 2, 3, 4.0), 5.0, 0.5) == 5.0


def test_unhealthy_before_the_first_answer() -> None:
    assert not Health.unknown(0.0).healthy
