# SPDX-License-Identifier: Apache-2.0
"""What the counters of a status amount to: packets in, forwarded, dropped, and new connections. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

NEW = ("deliver_owner", "deliver_forwarded_syn", "deliver_syn_cookie")
FORWARDED = ("forward_first", "forward_again", "forward_fragment", "forward_delayed")


def of(counters: Mapping[str, float], names: Iterable[str]) -> float:
    """Return the sum of some counters, or of their rates."""
    return sum(counters.get(name, 0) for name in names)


def drops(counters: Mapping[str, float]) -> Iterable[str]:
    """Return the names of the counters of dropped packets."""
    return (name for name in counters if name.startswith("drop_"))
