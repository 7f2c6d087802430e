# SPDX-License-Identifier: Apache-2.0
"""Times and durations as the text that lbctl reads and prints. Pure, and without imports that slow lbctl's start."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_UNITS_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile("".join(rf"(?:([0-9]{{1,6}}){unit})?" for unit in _UNITS_S))


def format_time(wall: float) -> str:
    """Return a wall-clock time as text, in UTC."""
    return f"{datetime.fromtimestamp(wall, UTC):%Y-%m-%d %H:%M:%S}Z"


def parse_duration(text: str) -> float:
    """Return the seconds of `90s`, `10m`, `1h30m` or `2d`. Raises ValueError for any other text."""
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError(f"{text!r} is not a duration; write 90s, 10m, 1h30m or 2d")
    seconds = sum(int(count or 0) * unit for count, unit in zip(match.groups(), _UNITS_S.values(), strict=True))
    if seconds == 0:
        raise ValueError(f"{text!r} is zero; give at least 1s")
    return float(seconds)


def age(seconds: float) -> str:
    """Return a duration in its largest unit."""
    for unit, length in _UNITS_S.items():
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"
