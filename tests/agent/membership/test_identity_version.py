# SPDX-License-Identifier: Apache-2.0
"""The version of a node's identity only grows, above that of an earlier installation and of the relay's fallback."""

from agent.membership.identity_version import EXCEED_EVERY_S, HIGHEST, STEP, Version, initial

NOW = 1000.0


def test_initial_version_is_the_unix_time() -> None:
    assert initial(1_800_000_000.9) == Version(1_800_000_000)
    assert initial(-5.0).number == 1, "0 would be encoded as no version"
    assert initial(2.0**40).number == HIGHEST


def test_first_content_takes_the_number_and_each_change_a_higher_one() -> None:
    version = initial(100.0).with_content("a")
    assert version == Version(100, "a")
    assert version.with_content("a") == version
    assert version.with_content("b") == Version(100 + STEP, "b")
    assert version.with_content("b").with_content("a").number == 100 + 2 * STEP


def test_fallback_is_above_the_live_version_and_below_the_next() -> None:
    version = Version(100, "a")
    assert version.number < version.fallback < version.with_content("b").number
    assert version.after_fallback().number > version.fallback
    assert version.after_fallback().content == "a"


def test_own_reflection_with_equal_content_is_ignored() -> None:
    version = Version(100, "a")
    for number in (99, 100, 500):
        assert version.after_reflections([(number, "a")], NOW) == version


def test_older_copy_is_ignored() -> None:
    assert Version(100, "a").after_reflections([(99, "b")], NOW) == Version(100, "a")


def test_newer_copy_with_another_content_is_exceeded() -> None:
    for number in (100, 101, 5000):
        assert Version(100, "a").after_reflections([(99, "b"), (number, "b"), (7000, "a")], NOW).number == number + STEP


def test_two_nodes_with_one_address_exceed_each_other_at_a_limited_rate() -> None:
    a, b, changes = Version(100, "a"), Version(100, "b"), 0
    for i in range(1000):
        now = i * 0.01
        before = (a.number, b.number)
        a = a.after_reflections([(b.number, b.content)], now)
        b = b.after_reflections([(a.number, a.content)], now)
        changes += (a.number, b.number) != before
    assert changes <= 2 * (10 / EXCEED_EVERY_S)


def test_highest_number_is_not_exceeded() -> None:
    version = Version(HIGHEST, "a")
    assert version.after_reflections([(HIGHEST + 1, "b")], NOW) == version
    assert version.with_content("b").fallback < 1 << 32
