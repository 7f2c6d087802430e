# SPDX-License-Identifier: Apache-2.0
"""Durations as an operator writes them, and times as lbctl prints them."""

import pytest

from agent.time_text import age, format_time, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1h", 3600), ("2d", 172_800), ("1d1h1m1s", 90_061)],
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "90", "h", "1.5h", "-1h", "30m1h", "1h 30m", "1H", "0s", "0h0m", "9999999s", "\u0661s"]
)
def test_invalid_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|is zero"):
        parse_duration(text)


def test_times_as_they_are_printed() -> None:
    assert format_time(1_700_000_000.9) == "2023-11-14 22:13:20Z"
    assert [age(seconds) for seconds in (0.4, 59.9, 60, 7_300, 200_000)] == ["0 s", "59 s", "1 m", "2 h", "2 d"]
