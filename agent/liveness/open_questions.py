# SPDX-License-Identifier: Apache-2.0
"""The questions that await an answer. Pure."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from agent.address import Address
from agent.liveness.question import Question, Target, Via

UNANSWERED_S = 0.05
"""After so long without an answer a question of a round leads to a burst."""
OPEN_S = 1.0
"""How long an answer is accepted."""


class OpenQuestion(NamedTuple):
    """A question that may still be answered; `target` None: it went to a router."""

    target: Target | None
    address: Address
    via: Via
    sent: float


class OpenQuestions:
    """The open questions by their nonces, which `rng` makes."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._open: dict[int, OpenQuestion] = {}
        self._watched: deque[int] = deque()
        """Those that lead to a burst, the oldest first, and some that are closed."""
        self._sent: deque[int] = deque()
        """All, likewise."""

    def add(self, target: Target | None, address: Address, via: Via, now: float, watched: bool = False) -> Question:
        """Return a new question. `watched`: `unanswered` returns it if it has no answer in time."""
        nonce = self._rng.getrandbits(64)
        self._open[nonce] = OpenQuestion(target, address, via, now)
        self._sent.append(nonce)
        if watched:
            self._watched.append(nonce)
        return Question(address, nonce, via)

    def get(self, nonce: int) -> OpenQuestion | None:
        """Return an open question."""
        return self._open.get(nonce)

    def close(self, nonce: int) -> None:
        """Accept no answer to it any more."""
        self._open.pop(nonce, None)

    def unanswered(self, now: float) -> Iterator[Target]:
        """Return the nodes whose watched questions have just become unanswered. The questions stay open."""
        while (oldest := self._oldest(self._watched)) and oldest.sent + UNANSWERED_S <= now:
            self._watched.popleft()
            if oldest.target is not None:
                yield oldest.target

    def expired(self, now: float) -> Iterator[OpenQuestion]:
        """Return the questions to which no answer is accepted any more, and close them."""
        while (oldest := self._oldest(self._sent)) and oldest.sent + OPEN_S <= now:
            self.close(self._sent.popleft())
            yield oldest

    @property
    def next_at(self) -> float:
        """When the next one becomes unanswered or expires."""
        watched, sent = self._oldest(self._watched), self._oldest(self._sent)
        return min(watched.sent + UNANSWERED_S if watched else math.inf, sent.sent + OPEN_S if sent else math.inf)

    def _oldest(self, nonces: deque[int]) -> OpenQuestion | None:
        while nonces and nonces[0] not in self._open:
            nonces.popleft()
        return self._open[nonces[0]] if nonces else None
