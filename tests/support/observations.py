# SPDX-License-Identifier: Apache-2.0
"""What a node observes of five others, for the tests of the view. This node is a sixth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from agent.channel.state import NodeState, ServiceEndpoint, StateShare
from agent.liveness.question import Liveness
from agent.membership.observations import Observations
from agent.membership.received import Named
from agent.membership.view import View
from agent.model import State

A, B, C, D, E = (IPv4Address(f"10.0.0.{number}") for number in range(11, 16))
FIVE = (A, B, C, D, E)
SERVICE = ServiceEndpoint(IPv4Address("192.0.2.10"), "tcp", 443)
WEB = str(SERVICE)
NAMED = Named()
ALL_UP = dict.fromkeys(FIVE, State.UP)


def node_state(
    state: State = State.UP,
    weight: int = 100,
    boot: int = 1,
    version: int = 1,
    unreachable: tuple[IPv4Address, ...] = (),
) -> NodeState:
    """Return what a node publishes: one service."""
    share = StateShare(100, weight if state is State.UP else 0, state, announced=True)
    return NodeState(boot, version, "1", True, (1,), {SERVICE: share}, unreachable)


def answers(since: float = 0.0, boot: int = 1, ready: bool = True, agent_silent: bool = False) -> Liveness:
    """Return the liveness of a node that answers."""
    return Liveness(True, since, boot, ready, 20.0 if agent_silent else 0.0)


def silent(since: float, boot: int = 1) -> Liveness:
    """Return the liveness of a node that does not answer since then."""
    return Liveness(False, since, boot)


@dataclass
class Surroundings:
    """What is observed, changed step by step; `see` brings a view to it."""

    view: View = field(default_factory=View)
    observed: Observations = field(
        default_factory=lambda: Observations(
            dict.fromkeys(FIVE, NAMED), True, dict.fromkeys(FIVE, answers()), dict.fromkeys(FIVE, node_state())
        )
    )

    def see(
        self,
        now: float,
        *,
        named: Mapping[IPv4Address, Named | None] = {},
        liveness: Mapping[IPv4Address, Liveness | None] = {},
        states: Mapping[IPv4Address, NodeState | None] = {},
        named_completely: bool | None = None,
    ) -> dict[IPv4Address, State]:
        """Change some of it (None: it is no longer there); return the state of each member then."""
        observed = self.observed
        self.observed = replace(
            observed,
            named={a: one for a, one in {**observed.named, **named}.items() if one is not None},
            liveness={a: one for a, one in {**observed.liveness, **liveness}.items() if one is not None},
            states={a: one for a, one in {**observed.states, **states}.items() if one is not None},
            named_completely=observed.named_completely if named_completely is None else named_completely,
        )
        self.view.observe(self.observed, now)
        return {member.address: member.state for member in self.view.members}
