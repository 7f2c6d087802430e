# SPDX-License-Identifier: Apache-2.0
"""The version of this node's identity: a number that only grows, so that others can tell new from old. Pure.

The rules, after those of OSPF's sequence numbers (RFC 2328 sections 12.1.6 and 13.4):

1. It begins at the seconds of the calendar when nothing is saved: above what an earlier life on this node came to.
2. Each change of the content adds `STEP`. The number between is the fallback's, which the relay announces when the
   agent falls silent: newer than what the agent said last, older than what it says next.
3. An agent whose fallback was announced says its content anew, under a number above the fallback's.
4. A node that hears its own identity with its own or a higher number and another content exceeds it: a copy from before
   a reinstall (or a clock that was set back) would otherwise be believed for as long as some router holds it. Its own
   reflection with the same content means nothing. Two nodes with one address exceed each other without end, so this
   happens once in `EXCEED_EVERY_S` at most, as OSPF's MinLSInterval does it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

STEP = 2
HIGHEST = (1 << 32) - 2
"""So that the fallback's number still fits in 32 bits. It would take a change each second until 2106."""
EXCEED_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Version:
    """`number` is the live identity's; `content` stands for what is said under it, empty before the first word."""

    number: int
    content: str = ""
    exceeded_at: float | None = field(default=None, compare=False)
    """CLOCK_MONOTONIC seconds of the last time that another's number was exceeded."""

    @property
    def fallback(self) -> int:
        """The number under which the relay announces the fallback."""
        return self.number + 1

    def saying(self, content: str) -> Version:
        """The version once `content` is announced."""
        if not self.content or content == self.content:
            return replace(self, content=content)
        return replace(self, number=_limited(self.number + STEP), content=content)

    def after_fallback(self) -> Version:
        """The version after the relay announced the fallback."""
        return replace(self, number=_limited(self.number + STEP))

    def having_heard(self, reflections: Iterable[tuple[int, str]], now: float) -> Version:
        """The version after hearing this node's own identity as (number, content), from any number of routers."""
        if self.exceeded_at is not None and now - self.exceeded_at < EXCEED_EVERY_S:
            return self
        newer = [number for number, content in reflections if number >= self.number and content != self.content]
        if not newer or self.number == HIGHEST:
            return self
        return replace(self, number=_limited(max(newer) + STEP), exceeded_at=now)


def first(unix_s: float) -> Version:
    """The version of a node that has nothing saved; `unix_s` is the time of the calendar."""
    return Version(_limited(int(unix_s)))


def _limited(number: int) -> int:
    return max(1, min(number, HIGHEST))
