# SPDX-License-Identifier: Apache-2.0
"""The version of this node's identity: a number that only grows, so that others can tell new from old. Pure.

The rules, after those of OSPF's sequence numbers (RFC 2328 sections 12.1.6 and 13.4):

1. With nothing saved, it starts at the Unix time in seconds: above any version of an earlier installation of this node.
2. Each change of the content adds `STEP`. The number between is the fallback's, which the relay announces when the
   agent falls silent: newer than the agent's last content, older than its next.
3. An agent whose fallback was announced announces its content again, under a number above the fallback's.
4. A node that receives its own identity with its own or a higher number and another content exceeds that number: a copy
   from before a reinstall (or before a clock was set back) would otherwise be believed for as long as some router holds
   it. A reflection with the same content means nothing. Two nodes with one address exceed each other without end, so
   this happens at most once in `EXCEED_EVERY_S`, like OSPF's MinLSInterval.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

STEP = 2
HIGHEST = (1 << 32) - 2
"""So that the fallback's number still fits in 32 bits. One change each second would reach it in 2106."""
EXCEED_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Version:
    """`number` is the live identity's; `content` is the digest of what it carries, empty before the first one."""

    number: int
    content: str = ""
    exceeded_at: float | None = field(default=None, compare=False)
    """CLOCK_MONOTONIC seconds of the last time that a received number was exceeded."""

    @property
    def fallback(self) -> int:
        """The number under which the relay announces the fallback."""
        return self.number + 1

    def with_content(self, content: str) -> Version:
        """Return the version for `content`: a new number if the content changes."""
        if not self.content or content == self.content:
            return replace(self, content=content)
        return replace(self, number=_limited(self.number + STEP), content=content)

    def after_fallback(self) -> Version:
        """Return the version after the relay announced the fallback."""
        return replace(self, number=_limited(self.number + STEP))

    def after_reflections(self, reflections: Iterable[tuple[int, str]], now: float) -> Version:
        """Return the version after receiving this node's own identity, as (number, content) from each router."""
        newer = self._newer(reflections)
        if not newer or now < self._exceeds_at:
            return self
        return replace(self, number=_limited(max(newer) + STEP), exceeded_at=now)

    def next_at(self, reflections: Iterable[tuple[int, str]]) -> float:
        """Return when time alone makes these reflections exceeded; infinity if it does not."""
        return self._exceeds_at if self._newer(reflections) else float("inf")

    @property
    def _exceeds_at(self) -> float:
        return float("-inf") if self.exceeded_at is None else self.exceeded_at + EXCEED_EVERY_S

    def _newer(self, reflections: Iterable[tuple[int, str]]) -> list[int]:
        if self.number == HIGHEST:
            return []
        return [number for number, content in reflections if number >= self.number and content != self.content]


def initial(unix_s: float) -> Version:
    """Return the version of a node that has none saved; `unix_s` is the time since 1970."""
    return Version(_limited(int(unix_s)))


def _limited(number: int) -> int:
    return max(1, min(number, HIGHEST))
