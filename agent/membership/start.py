# SPDX-License-Identifier: Apache-2.0
"""When a node that starts knows enough of the others for its first table. Pure.

It waits until everybody who is named has answered or is silent, for `START_S` at most. A node that would be alone
beside nodes that forward waits on, because it would reset their connections:

- while nodes answer whose agents live, and none accepts its datagrams: its configuration differs from theirs;
- for `ALONE_S`, while routers send packets to nodes that do not answer it: it is cut off from them. If they have died,
  the routers withdraw their routes, and the wait is over: the last node alive serves.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

from agent.membership.observations import Observations

START_S = 5.0
"""Less than the relay's dead-man, so that a restarted agent announces in time even when every router is down."""
ALONE_S = 600.0
"""As long as a silent member is remembered, and longer than any usual hold time (BIRD 240 s, FRR 180 s) with a graceful
restart (120 s): then a node that is dead has no routes any more, unless a router holds an old one by mistake."""


def is_complete(observed: Observations, members: Iterable[IPv4Address], waited_s: float) -> bool:
    """Whether a first table can be made after that time. `members`: those in the view, saved ones included."""
    members = frozenset(members)
    if not members and (waits_alone(observed, waited_s) or any(_refuses(observed, one) for one in observed.liveness)):
        return False
    if waited_s >= START_S:
        return True
    return observed.named_completely and not any(_is_awaited(observed, one) for one in observed.named.keys() | members)


def waits_alone(observed: Observations, waited_s: float) -> bool:
    """Whether a node without members waits because routers name others that it does not reach."""
    return waited_s < ALONE_S and bool(observed.unanswering_announcers)


def _refuses(observed: Observations, address: IPv4Address) -> bool:
    """Whether a node forwards and has a living agent, and does not publish what it serves."""
    liveness = observed.liveness[address]
    return liveness.ready and liveness.agent_lives and bool(liveness.answers) and _is_awaited(observed, address)


def _is_awaited(observed: Observations, address: IPv4Address) -> bool:
    """Whether a node has neither answered with all that makes it a member, nor been found silent."""
    liveness, state = observed.liveness.get(address), observed.states.get(address)
    if liveness is None or liveness.answers is None:
        return True
    return bool(liveness.answers) and (state is None or state.boot != liveness.boot)
