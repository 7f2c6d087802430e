# SPDX-License-Identifier: Apache-2.0
"""From the configuration, this node's condition and its view to what shall be: routes, chains, grace. Pure.

Owns every decision between "what is" and "what to write"; map_writer.py and the BGP relay carry it out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from agent.address import Address
from agent.config.schema import Config
from agent.config.service import ServiceConfig
from agent.errors import AgentError
from agent.model import Announcement, Candidate, Member, Share, State


@dataclass(frozen=True, slots=True)
class Condition:
    """What this node knows of itself and what its operator asked of it."""

    forwarding: bool
    """XDP is attached and the tables are written (always true where the data path is off by configuration)."""
    healthy: Mapping[str, bool]
    """By service name."""
    intent: State = State.UP
    """What the operator wants of the node: `up`, `draining` or `left`."""
    begun: frozenset[Address] = field(default_factory=frozenset)
    """VIPs that have been announced since their services first rose."""
    drained: frozenset[str] = field(default_factory=frozenset)
    """Services that this node takes no new connections for, by the operator's word; by name."""
    weights: Mapping[str, int] = field(default_factory=dict)
    """The operator's effective weights where they are lower than the nominal ones, by service name."""
    has_ipv6: bool = True
    """The node has an IPv6 address to be the next hop of IPv6 VIPs."""


def own_share(service: ServiceConfig, condition: Condition) -> Share:
    """What this node tells the others of its part in a service."""
    state = condition.intent
    if state is State.UP and service.name in condition.drained:
        state = State.DRAINING
    effective = min(service.weight, condition.weights.get(service.name, service.weight))
    return Share(service.weight, effective if condition.healthy[service.name] and state is State.UP else 0, state)


def effective_weight(text: str, nominal: int) -> int:
    """What an operator's `50`, `50%` or `nominal` makes of a nominal weight; AgentError when it is neither, or more."""
    percent = text.endswith("%")
    number = text.removesuffix("%")
    if text == "nominal":
        return nominal
    if not (number.isascii() and number.isdigit()):
        raise AgentError(f"'{text}' is not a weight: give a number, a percentage such as 50%, or nominal")
    weight = -(-nominal * int(number) // 100) if percent else int(number)
    if weight > nominal:
        raise AgentError(
            f"{text} is more than the nominal weight, {nominal}: raise `weight` in the configuration, then reload"
        )
    return weight


def announcement(
    config: Config, vip: Address, condition: Condition, untaken: Collection[str] = frozenset()
) -> Announcement:
    """Whether to announce a VIP, but for what the operator says of it and for damping (decide.py).

    `untaken`: the names of services that no member at all takes new connections for.

    With the data path, a VIP once begun stays announced while the node can forward, even when its own service is
    unhealthy: only the weight becomes 0, and the router's ECMP set is not disturbed. Without (`xdp.mode: off`),
    nobody would forward for an unhealthy service, so its VIP is withdrawn. When no member is left that takes new
    connections, `when_unhealthy` decides, the same on every node.
    """
    if not config.node.announce:
        return Announcement(False, "node.announce is false: a member only")
    if condition.intent is not State.UP:
        return Announcement(False, f"the node is {condition.intent}")
    if not condition.forwarding:
        return Announcement(False, "the data path is not ready", fault=True)
    if f"ipv{vip.version}" not in config.bgp.carries:
        return Announcement(False, f"no BGP peer carries IPv{vip.version}; add it to a peer's families")
    if vip.version == 6 and not (condition.has_ipv6 or config.announce_of(vip).next_hop):
        return Announcement(False, "the node's interface has no IPv6 address to be the next hop")
    services = [service for service in config.services if service.vip == vip]
    sick = [s.name for s in services if not condition.healthy[s.name] or s.name in condition.drained]
    failing = not all(condition.healthy[s.name] for s in services)
    if sick and vip not in condition.begun:
        return Announcement(False, f"unhealthy: {', '.join(sick)}", fault=failing)
    if all(s.name in untaken for s in services):
        withdrawing = [s.name for s in services if s.when_unhealthy == "withdraw"]
        if withdrawing:
            return Announcement(False, f"no member is healthy: {', '.join(withdrawing)}", fault=failing)
        return Announcement(True, "no member is healthy: failing open")
    if sick and config.xdp.mode == "off":
        return Announcement(False, f"unhealthy: {', '.join(sick)}", fault=failing)
    return Announcement(True, f"forwarding for {', '.join(sick)}" if sick else "healthy")


def takers(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The members of a service that take new connections."""
    return [c for c in candidates if c.state is State.UP and c.effective > 0]


def candidates(service_id: int, members: Iterable[Member]) -> tuple[Candidate, ...]:
    """The members of one service, with their effective weights as they told them."""
    found = []
    for member in members:
        share = member.share(service_id)
        if share is not None:
            found.append(Candidate(member.address, share.weight, share.effective, share.state))
    return tuple(found)
