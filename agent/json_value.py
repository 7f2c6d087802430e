# SPDX-License-Identifier: Apache-2.0
"""Numbers in JSON that an earlier agent left: within limits, or a ValueError. Pure.

A file may be damaged, or from a release with other limits. JSON knows 1e400 and numbers of any length; unchecked, they
fail only where they are used.
"""

from __future__ import annotations

import json
from typing import Any, Final

U32: Final = (1 << 32) - 1
U64: Final = (1 << 64) - 1
MONOTONIC_S: Final = 1e10
"""More than CLOCK_MONOTONIC ever shows: 300 years."""
WALL_S: Final = 253_402_300_799.0
"""The end of the year 9999, the last that can be printed."""


def decode(content: bytes) -> Any:
    """Return the value of a JSON text. Raises ValueError, also for one that is nested too deeply."""
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def whole(value: object, high: int, low: int = 0) -> int:
    """Return a whole number from `low` to `high`. Raises ValueError for anything else."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"is not a whole number in {low}-{high}")
    return value


def real(value: object, high: float, low: float = 0.0) -> float:
    """Return a number from `low` to `high`. Raises ValueError for anything else."""
    if type(value) not in (int, float) or not low <= value <= high:  # type: ignore[operator]
        raise ValueError(f"is not a number in {low:g}-{high:g}")
    return float(value)  # type: ignore[arg-type]
