# SPDX-License-Identifier: Apache-2.0
"""What a node knows of the others at one time: who is named, who answers, and what each serves. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from agent.channel.state import NodeState
from agent.liveness.question import Liveness
from agent.membership.received import Named


@dataclass(frozen=True, slots=True)
class Observations:
    """All that is known of the other nodes now; what has not changed is the same object as before."""

    named: Mapping[IPv4Address, Named] = field(default_factory=dict)
    named_completely: bool = False
    """Some router has sent all that it had."""
    liveness: Mapping[IPv4Address, Liveness] = field(default_factory=dict)
    states: Mapping[IPv4Address, NodeState] = field(default_factory=dict)

    @property
    def unanswering_announcers(self) -> tuple[IPv4Address, ...]:
        """The nodes to which routers send packets, and that do not answer this one."""
        named = (address for address, one in self.named.items() if one.announces)
        return tuple(one for one in named if one not in self.liveness or not self.liveness[one].answers)
