# SPDX-License-Identifier: Apache-2.0
"""The nodes that are asked, and what is known of each: who answers, who is suspect, who has returned. Pure.

asker.py decides; the view and the other nodes get what is here.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from types import MappingProxyType

from agent.liveness.burst import Burst
from agent.liveness.question import Liveness, Target
from bpf.layout.echo import EchoMessage

REPORT_AGAIN = 3
"""How many nodes that asked because of a report report again."""


class Targets:
    """The nodes that are asked, with what they answer."""

    def __init__(self, rng: random.Random) -> None:
        self.by_address: dict[IPv4Address, Target] = {}
        self._rng = rng
        self._suspects: dict[IPv4Address, None] = {}
        self._returned: dict[IPv4Address, None] = {}
        self._liveness: Mapping[IPv4Address, Liveness] = MappingProxyType({})
        self._changed = False

    def add(self, address: IPv4Address, now: float) -> Target:
        """Return the target of a node that is asked from now on."""
        target = self.by_address[address] = Target(address, Liveness(None, now), {})
        self._changed = True
        return target

    def remove(self, address: IPv4Address) -> Target:
        """Forget a node that is asked no more, and return its target."""
        self._changed = True
        return self.by_address.pop(address)

    def has(self, target: Target) -> bool:
        """Whether a node is still asked: not whether one of the same address is, since later."""
        return self.by_address.get(target.address) is target

    @property
    def liveness(self) -> Mapping[IPv4Address, Liveness]:
        """Who answers; the same object while nothing changes."""
        if self._changed:
            self._changed = False
            self._liveness = MappingProxyType({address: one.liveness for address, one in self.by_address.items()})
        return self._liveness

    def update(self, target: Target, answer: EchoMessage, burst: Burst | None) -> None:
        """Store the content of an answer. A heartbeat that has just become too old is reported."""
        before = target.liveness
        after = Liveness.of(answer, before.answers, before.since)
        if after != before:
            target.liveness, self._changed = after, True
            if before.answers and before.agent_lives and not after.agent_lives:
                self.report(target, burst)
            if after.agent_lives and not before.agent_lives:
                self._returned[target.address] = None

    def judge(self, target: Target, answers: bool, now: float) -> None:
        """Note that a node answers from now on, or does not."""
        target.liveness, self._changed = replace(target.liveness, answers=answers, since=now), True
        if answers:
            self._returned[target.address] = None

    def report(self, target: Target, burst: Burst | None) -> None:
        """Have the others ask a node too. Of those whose burst was prompted by a report, a few report again."""
        if burst is None or not burst.prompted or self._rng.random() * len(self.by_address) < REPORT_AGAIN:
            self._suspects[target.address] = None

    def take_suspects(self) -> list[IPv4Address]:
        """Return the nodes that the others should ask too, since the last call."""
        suspects, self._suspects = list(self._suspects), {}
        return suspects

    def take_returned(self) -> list[IPv4Address]:
        """Return the nodes that answer, or whose agents live, since the last call: their states may be outdated."""
        returned, self._returned = list(self._returned), {}
        return returned
