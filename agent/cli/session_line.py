# SPDX-License-Identifier: Apache-2.0
"""A session as one line of text."""

from __future__ import annotations

from typing import Any


def line_of(one: dict[str, Any]) -> str:
    """Return a session's line."""
    state = f"{one['before']} > {one['state']}" if "before" in one else one["state"]
    cause = [one["cause"].replace("_", " ")] if one.get("cause", "packet") != "packet" else []
    if "client" not in one:
        return " ".join([f"{state:<25} slot {one['slot']}, which has another session by now", *cause])
    ends = f"{one['client']:<21} > {one['vip']:<21} {one['nat']:<21} > {one['backend']:<21}"
    width = 25 if "before" in one else 11
    idle = f"idle {one['idle_s']} s, age {one['age_s']} s"
    return " ".join([f"{state:<{width}} {one['protocol']} {one['service']:<12} {ends} {idle}", *cause, *one["flags"]])
