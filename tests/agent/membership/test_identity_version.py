# SPDX-License-Identifier: Apache-2.0
"""The version of a node's identity only grows, past whatever an earlier life or the relay's fallback said."""

from agent.membership.identity_version import EXCEED_EVERY_S, HIGHEST, STEP, Version, first

NOW = 1000.0


def test_begins_at_the_seconds_of_the_calendar() -> None:
    assert first(1_800_000_000.9) == Version(1_800_000_000)
    assert first(-5.0).number == 1, "0 would be told as no version at all"
    assert first(2.0**40).number == HIGHEST


def test_the_first_content_takes_the_number_and_each_change_a_higher_one() -> None:
    said = first(100.0).saying("a")
    assert said == Version(100, "a")
    assert said.saying("a") == said
    assert said.saying("b") == Version(100 + STEP, "b")
    assert said.saying("b").saying("a").number == 100 + 2 * STEP


def test_the_fallback_is_above_the_live_one_and_below_the_next() -> None:
    said = Version(100, "a")
    assert said.number < said.fallback < said.saying("b").number
    assert said.after_fallback().number > said.fallback
    assert said.after_fallback().content == "a"


def test_own_reflection_with_equal_content_means_nothing() -> None:
    said = Version(100, "a")
    for number in (99, 100, 500):
        assert said.having_heard([(number, "a")], NOW) == said


def test_an_older_copy_means_nothing() -> None:
    assert Version(100, "a").having_heard([(99, "b")], NOW) == Version(100, "a")


def test_a_newer_copy_with_another_content_is_exceeded() -> None:
    for number in (100, 101, 5000):
        assert Version(100, "a").having_heard([(99, "b"), (number, "b"), (7000, "a")], NOW).number == number + STEP


def test_two_nodes_with_one_address_exceed_each_other_once_in_a_time() -> None:
    a, b, changes = Version(100, "a"), Version(100, "b"), 0
    for i in range(1000):
        now = i * 0.01
        before = (a.number, b.number)
        a = a.having_heard([(b.number, b.content)], now)
        b = b.having_heard([(a.number, a.content)], now)
        changes += (a.number, b.number) != before
    assert changes <= 2 * (10 / EXCEED_EVERY_S)


def test_the_highest_number_is_not_exceeded() -> None:
    said = Version(HIGHEST, "a")
    assert said.having_heard([(HIGHEST + 1, "b")], NOW) == said
    assert said.saying("b").fallback < 1 << 32
