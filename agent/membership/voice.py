# SPDX-License-Identifier: Apache-2.0
"""What the members say of others: who still hears a node that does not answer this one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from math import inf

from agent.channel.state import MAX_UNHEARD, NodeState
from agent.liveness.question import Liveness
from agent.model import Member

OWNS_S = 3.0
"""How long a silent member owns its rows, if no other hears it."""
NEW = "answers, and says what it serves"
"""Why a member is one: it has appeared."""


@dataclass(frozen=True, slots=True)
class Voice:
    """What a member says of others.

    It lists whom it does not hear, of the members that it knows, and MAX_UNHEARD at most. So a full list says nothing
    of others, nor does a member that is new since the other one is silent: it may never have known it.
    """

    known_since: float
    unheard: frozenset[int]

    def hears(self, number: int, silent_since: float) -> bool:
        """Whether it says that it hears the node with this number as its address."""
        return number not in self.unheard and self.known_since <= silent_since - OWNS_S


def voices(
    members: Mapping[IPv4Address, Member],
    liveness: Mapping[IPv4Address, Liveness],
    states: Mapping[IPv4Address, NodeState],
) -> dict[IPv4Address, Voice]:
    """Return the members that this node hears, as far as they say anything of others.

    Made once for all questions: a thousand members may list dozens each.
    """
    return {
        address: Voice(member.since if member.why == NEW else -inf, frozenset(map(int, state.unheard)))
        for address, member in members.items()
        if (one := liveness.get(address)) is not None and one.answers and one.agent_lives
        if (state := states.get(address)) is not None and len(state.unheard) < MAX_UNHEARD
    }
