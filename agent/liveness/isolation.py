# SPDX-License-Identifier: Apache-2.0
"""Is it this node that is cut off? Pure.

A node that receives no answer at all must not take the others for silent. So while it judges any of them it also asks
a sample of the others and every router, and believes a silence only if one of these answers a question from the same
time. Otherwise the node is isolated: it judges none until an answer arrives, or until ISOLATION_S have passed: then it
may be the only one left, and has to serve.

A router's answer proves nothing while other nodes ask this one: they live, and something here drops their answers, as a
packet filter that closes the port does. Then the node stays isolated until a node answers, or none asks any more.
"""

from __future__ import annotations

import math
from collections import deque

ISOLATION_S = 5.0
SAMPLE = 8
"""How many random others are asked in a sample; with them every router."""
SAMPLE_AFTER_S = 0.06
"""Most bursts are over by then: the first or the second question is answered."""
SAMPLE_INTERVAL_S = 0.1
"""So one sample falls between PROOF_AFTER_S and the last question of each burst, 0.21 s after the first."""
PROOF_AFTER_S = 0.09
"""An answer counts only from the later part of a burst: the link may have failed after its first question."""
QUIET_S = 1.0
"""No node asks any more: each is asked 20 times a second by all."""
_STEP_S = 0.005
_KEPT_S = 1.0


class Isolation:
    """Whether this node is cut off, by the answers it gets."""

    def __init__(self) -> None:
        self.since: float | None = None
        """When this node was found isolated; None if it is not."""
        self.over = False
        """Whether there was no answer for ISOLATION_S: silence is believed again."""
        self.sample_at = math.inf
        """When the next sample is due."""
        self._by_nodes: deque[float] = deque()
        """When questions were sent that nodes answered, one of each few milliseconds of the last second."""
        self._by_routers: deque[float] = deque()
        self._questioned_at = -math.inf

    def questioned(self, at: float) -> None:
        """Note that a node has asked this one, at that time or later."""
        self._questioned_at = at

    def is_asked(self, at: float) -> bool:
        """Whether a node asks this one at that time."""
        return at < self._questioned_at + QUIET_S

    def answered(self, sent: float, by_router: bool = False) -> bool:
        """Note an answer to a question that was sent then; return whether it ends the isolation."""
        answered = self._by_routers if by_router else self._by_nodes
        if not answered or sent >= answered[-1] + _STEP_S:
            answered.append(sent)
            while answered[0] < sent - _KEPT_S:
                answered.popleft()
        if by_router and self.is_asked(sent):
            return False
        ended = self.since is not None
        self.since, self.over = None, False
        return ended

    def has_answer(self, start: float, end: float, after_s: float = 0.0) -> bool:
        """Return whether an answer shows that this node reaches others: to a question that was sent from `after_s`
        after the start until the end. A router's counts if no node has asked since the start."""
        proofs = self._by_nodes if self._questioned_at >= start else (*self._by_nodes, *self._by_routers)
        return any(start + after_s <= sent <= end for sent in proofs)

    def believes(self, start: float, end: float, now: float) -> bool:
        """Return whether silence in a burst, from its first question to the last, is the other's.

        If not, this node is isolated from now on. An answer to a question after the burst proves nothing: a link may be
        back that was down before.
        """
        if self.over or self.has_answer(start, end, PROOF_AFTER_S):
            return True
        if self.since is None:
            self.since = now
        return False

    @property
    def ends_at(self) -> float:
        """When the isolation ends by itself."""
        return math.inf if self.since is None else max(self.since + ISOLATION_S, self._questioned_at + QUIET_S)

    def expire(self, now: float) -> bool:
        """End an isolation that has lasted ISOLATION_S, if no node asks; return whether it did."""
        if now < self.ends_at:
            return False
        self.since, self.over = None, True
        return True

    def sampled(self, now: float, judging: bool) -> None:
        """Schedule the next sample, if a node is still being judged."""
        self.sample_at = now + SAMPLE_INTERVAL_S if judging or self.since is not None else math.inf

    def judging(self, now: float) -> None:
        """Schedule the first sample of a judgment that begins now."""
        self.sample_at = min(self.sample_at, now + SAMPLE_AFTER_S)
