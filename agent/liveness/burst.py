# SPDX-License-Identifier: Apache-2.0
"""A burst of questions to one node: is it silent, or is it back? Pure.

    questions  0  30  60  90 120 150 180 210 ms    verdict: 240 ms
                          │ none answered: suspect, reported to the others
    any answer: it is not silent, the burst ends

A node that was silent is back once BACK_ANSWERS of the questions, over BACK_S, are answered.
"""

from __future__ import annotations

import math
from enum import Enum, auto

QUESTIONS = 8
INTERVAL_S = 0.03
SUSPECT_QUESTIONS = 3
"""With these unanswered when the next one is due, the node is suspect."""
BACK_ANSWERS = 4
BACK_S = 0.1
VOIDS = 8
"""So often in a row a burst is repeated because this node was late: one that always is must not wait forever."""


class Due(Enum):
    """What is due in a burst."""

    ASK = auto()
    VERDICT = auto()


class Burst:
    """`prompted`: another node's message or a hint caused it, not this node's own observation."""

    def __init__(self, now: float, prompted: bool) -> None:
        self.prompted = prompted
        self.start = self.last_asked = self.next_at = now
        self.reported = False
        """Whether it has been reported to the others."""
        self._asked = self._unsent = self._voids = self._answers = 0
        self._first, self._last = math.inf, -math.inf
        """When the first and the last of the answered questions were sent."""

    def due(self) -> Due:
        """Return what is due at `next_at`."""
        return Due.ASK if self._asked < QUESTIONS else Due.VERDICT

    def ask(self, now: float) -> None:
        """Count a question that is sent now. The next one is due an interval later, however late this one is."""
        self._asked += 1
        self.last_asked, self.next_at = now, now + INTERVAL_S

    def unsent(self) -> bool:
        """Undo `ask` for a question that could not be sent; return whether that makes QUESTIONS in this burst."""
        self._asked -= 1
        self._unsent += 1
        return self._unsent >= QUESTIONS

    def answered(self, sent: float) -> None:
        """Count an answer to a question sent at that time."""
        self._answers += 1
        self._first, self._last = min(self._first, sent), max(self._last, sent)

    @property
    def is_suspect(self) -> bool:
        """Whether enough questions are unanswered to report the node; meaningful before a question is asked."""
        return self._asked >= SUSPECT_QUESTIONS

    @property
    def is_back(self) -> bool:
        """Whether the answers show that a silent node is back."""
        return self._answers >= BACK_ANSWERS and self._last - self._first >= BACK_S

    def void(self, now: float) -> None:
        """Begin again: this node was late."""
        if self._voids < VOIDS:
            self._voids += 1
            self._asked = 0
            self.start = self.next_at = now
