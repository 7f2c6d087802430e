# SPDX-License-Identifier: Apache-2.0
"""Which texts of lb.yml ran one after the other, and the deadline of a change that is not confirmed. Pure.

All of it is one file (history_file.py), so that each step of a change is one atomic write. The deadline is wall-clock
time, because it must survive the agent; a clock that jumps back delays it by the change's own timeout at most.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from agent.json_value import WALL_S, decode, real

MAX_PREVIOUS = 10
MAX_BYTES = 4 << 20
"""Of all texts together; the oldest are dropped."""
MIN_TIMEOUT_S, MAX_TIMEOUT_S = 5.0, 86_400.0


@dataclass(frozen=True, slots=True)
class Pending:
    """A change that ends by itself: the text `previous` runs again at `until` unless the change is confirmed."""

    until: float
    timeout_s: float
    previous: str

    def remaining_s(self, now: float) -> float:
        """Return how long the change still has, at the wall-clock time `now`."""
        return min(max(0.0, self.until - now), self.timeout_s)


@dataclass(frozen=True, slots=True)
class History:
    """`running`: the text that runs, None before the first. `previous`: what ran before it, the last one first."""

    running: str | None = None
    previous: tuple[str, ...] = ()
    pending: Pending | None = None


def started(history: History, text: str, *, same: bool = False) -> History:
    """Return the history when an agent runs `text`. `same`: it means the same as what ran, as with another comment."""
    if history.running is None or history.running == text or same:
        return replace(history, running=text)
    return replace(history, running=text, previous=_bounded((history.running, *history.previous)))


def awaiting(history: History, running: str, now: float, timeout_s: float) -> History:
    """Return the history when a change of the text that runs begins, which must be confirmed in time."""
    return replace(history, pending=Pending(now + timeout_s, timeout_s, running))


def confirmed(history: History) -> History:
    """Return the history in which the change stays."""
    return replace(history, pending=None)


def gone_back(history: History, text: str) -> History:
    """Return the history when `text`, which ran before, runs again: what came after it is no part of it."""
    older = history.previous[history.previous.index(text) + 1 :] if text in history.previous else history.previous
    return History(text, older)


def _bounded(texts: tuple[str, ...]) -> tuple[str, ...]:
    kept: list[str] = []
    size = 0
    for text in texts[:MAX_PREVIOUS]:
        size += len(text.encode())
        if size > MAX_BYTES:
            break
        kept.append(text)
    return tuple(kept)


def encode(history: History) -> str:
    """Return the history as JSON."""
    pending = history.pending
    return json.dumps(
        {
            "running": history.running,
            "previous": history.previous,
            "pending": pending
            and {"until": pending.until, "timeout_s": pending.timeout_s, "previous": pending.previous},
        }
    )


def parse(content: bytes) -> History:
    """Return the history in a file's content. Raises ValueError."""
    data = decode(content)
    try:
        running, previous, pending = data["running"], tuple(data["previous"]), data["pending"]
        if not all(isinstance(text, str) for text in ("" if running is None else running, *previous)):
            raise ValueError("is not a history of texts")
        if pending is None:
            return History(running, previous)
        if not isinstance(pending["previous"], str):
            raise ValueError("has no text to go back to")
        until, timeout_s = real(pending["until"], WALL_S), real(pending["timeout_s"], MAX_TIMEOUT_S)
        return History(running, previous, Pending(until, timeout_s, pending["previous"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"is not a history of configurations ({error})") from None
