# SPDX-License-Identifier: Apache-2.0
"""What the members report of others: who still reaches a node that does not answer this one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from math import inf

from agent.channel.state import MAX_UNREACHABLE, NodeState
from agent.liveness.question import Liveness
from agent.model import Member

OWNS_S = 3.0
"""How long a silent member owns its rows, if no other reaches it."""
NEW = "answers, and publishes what it serves"
"""Why a member is one: it has appeared."""


@dataclass(frozen=True, slots=True)
class Reachability:
    """What a member reports of others.

    It lists the members that do not answer it, of those that it knows, and MAX_UNREACHABLE at most. So a full list
    proves nothing of others, nor does a member that is new since the other one is silent: it may never have known it.
    """

    known_since: float
    unreachable: frozenset[int]

    def reaches(self, number: int, silent_since: float) -> bool:
        """Whether it reports that it reaches the node with this number as its address."""
        return number not in self.unreachable and self.known_since <= silent_since - OWNS_S


def reachability_of(
    members: Mapping[IPv4Address, Member],
    liveness: Mapping[IPv4Address, Liveness],
    states: Mapping[IPv4Address, NodeState],
) -> dict[IPv4Address, Reachability]:
    """Return the members that this node reaches, as far as they report of others.

    Made once for all questions: a thousand members may list dozens each.
    """
    return {
        address: Reachability(member.since if member.why == NEW else -inf, frozenset(map(int, state.unreachable)))
        for address, member in members.items()
        if (one := liveness.get(address)) is not None and one.answers and one.agent_lives
        if (state := states.get(address)) is not None and len(state.unreachable) < MAX_UNREACHABLE
    }
