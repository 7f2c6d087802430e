# SPDX-License-Identifier: Apache-2.0
"""This node's condition, and what follows from it alone: its share of each service, and whether a VIP or a pool of NAT
may be announced.

Pure. What orders, hold-down and the view add to it is plan.py's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.address import Address, Announced, Network
from agent.config.schema import Config
from agent.config.service import ServiceConfig
from agent.errors import AgentError
from agent.model import NAT_TABLE, Announcement, Share, State


@dataclass(frozen=True, slots=True)
class Condition:
    """The condition of this node: what it observes of itself, and what its operator requested."""

    forwarding: bool
    """XDP is attached and the tables are written (always true where the data path is off by configuration)."""
    healthy: frozenset[str] = field(default_factory=frozenset)
    """The names of the services that are."""
    admin_state: State = State.UP
    """The state that the operator requested for the node: `up`, `draining` or `left`."""
    announced_once: frozenset[Address] = field(default_factory=frozenset)
    """VIPs that this node has announced since their services became healthy for the first time."""
    drained: frozenset[str] = field(default_factory=frozenset)
    """Services that the operator drained on this node, by name: it takes no new connections for them."""
    weights: Mapping[str, int] = field(default_factory=dict)
    """The operator's effective weights where they are lower than the nominal ones, by service name."""
    has_ipv6: bool = True
    """Whether the node has an IPv6 address that can be the next hop of IPv6 VIPs."""
    blocked: Mapping[Address, str] = field(default_factory=dict)
    """The VIPs whose packets would be lost here on the path to or from clients, each with the cause."""


def own_share(service: ServiceConfig, condition: Condition) -> Share:
    """Return this node's share of a service, as it publishes it. Without a data path, or a path to clients, it
    takes no new flows."""
    state = condition.admin_state
    if state is State.UP and service.name in condition.drained:
        state = State.DRAINING
    takes_flows = condition.forwarding and service.name in condition.healthy and state is State.UP
    takes_flows = takes_flows and service.vip not in condition.blocked
    effective = min(service.weight, condition.weights.get(service.name, service.weight))
    return Share(service.weight, effective if takes_flows else 0, state)


def own_nat_share(config: Config, condition: Condition) -> Share | None:
    """Return this node's share of all sessions; None if it does no NAT. The health of backends is no part of it: the
    table only says where sessions are."""
    if config.nat is None or not config.nat.weight:
        return None
    weight, state = config.nat.weight, condition.admin_state
    takes_flows = condition.forwarding and state is State.UP
    takes_flows = takes_flows and any(one.vip not in condition.blocked for _, one in config.nat_services)
    return Share(weight, weight if takes_flows else 0, state, announced=False)


def own_shares(config: Config, condition: Condition) -> dict[str, Share]:
    """Return this node's share of each service, and of the sessions if it does NAT, by name."""
    shares = {service.name: own_share(service, condition) for service in config.services}
    nat = own_nat_share(config, condition)
    return shares if nat is None else {**shares, NAT_TABLE: nat}


MAX_DIGITS: Final = 10
"""Of a weight: Python refuses numbers of more than 4,300."""


def effective_weight(text: str, nominal: int) -> int:
    """Return the weight that an operator's `50`, `50%` or `nominal` means. AgentError: it is none of these, or more."""
    percent = text.endswith("%")
    number = text.removesuffix("%")
    if text == "nominal":
        return nominal
    if not (number.isascii() and number.isdigit() and len(number) <= MAX_DIGITS):
        raise AgentError(f"'{text[:20]}' is not a weight: give a number, a percentage such as 50%, or nominal")
    weight = -(-nominal * int(number) // 100) if percent else int(number)
    if weight > nominal:
        raise AgentError(
            f"{text} is more than the nominal weight, {nominal}: raise `weight` in the configuration, then reload"
        )
    return weight


def announcement(
    config: Config,
    vip: Address,
    condition: Condition,
    unserved: Collection[str] = frozenset(),
    elsewhere: Collection[Address] = frozenset(),
) -> Announcement:
    """Return whether the node's condition allows a VIP to be announced; orders and hold-down come later (decide.py).

    `unserved`: the names of the services for which no member at all takes new connections. `elsewhere`: the VIPs that
    another node announces, and takes new connections for.

    With the data path, a VIP that was announced once stays announced while the node can forward, even when its own
    service is unhealthy: only the weight becomes 0, and the router's ECMP set does not change. Without the data path
    (`xdp.mode: off`) the node cannot forward for an unhealthy service, so its VIP is withdrawn. When no member takes
    new connections any more, `when_unhealthy` decides, the same on every node.

    Where this node's path to clients is lost, only packets of other owners' flows are of use here: the VIP is withdrawn
    if some other node serves it.
    """
    if (obstacle := _obstacle(config, vip, condition)) is not None:
        return obstacle
    if vip in condition.blocked and vip in elsewhere:
        return Announcement(False, condition.blocked[vip], fault=True)
    services = [service for service in config.services if service.vip == vip]
    sick = [s.name for s in services if s.name not in condition.healthy or s.name in condition.drained]
    failing = not all(s.name in condition.healthy for s in services)
    if sick and vip not in condition.announced_once:
        return Announcement(False, f"unhealthy: {', '.join(sick)}", fault=failing)
    if all(s.name in unserved for s in services):
        withdrawing = [s.name for s in services if s.when_unhealthy == "withdraw"]
        if withdrawing:
            return Announcement(False, f"no member is healthy: {', '.join(withdrawing)}", fault=failing)
        return Announcement(True, "no member is healthy: failing open")
    if sick and config.xdp.mode == "off":
        return Announcement(False, f"unhealthy: {', '.join(sick)}", fault=failing)
    return Announcement(True, f"forwarding for {', '.join(sick)}" if sick else "healthy")


def pool_announcement(
    config: Config,
    pool: Network,
    condition: Condition,
    elsewhere: Collection[Address] = frozenset(),
    *,
    former_used: bool = False,
    nodes_differ: bool = False,
) -> Announcement:
    """Return whether a pool of NAT is announced. `elsewhere` as for `announcement`; `former_used`: some node has
    sessions with addresses of the former pool, or new ones get them; `nodes_differ`: some have the configuration of
    before. While these have a larger or a smaller prefix, all nodes announce that, and none a longer one: routers would
    send all answers to the nodes with the longest.

    The health of services and backends does not count: by the pool come the answers for sessions that exist, and this
    node forwards them to their owners. Where its path to clients is lost and other nodes serve, they get them instead.
    """
    if config.nat is None or config.nat.weight == 0:
        return Announcement(False, "nat.weight is 0: this node does no NAT")
    if config.xdp.mode == "off":
        return Announcement(False, "xdp.mode is off: this node does no NAT")
    if (obstacle := _obstacle(config, pool, condition)) is not None:
        return obstacle
    vips = [service.vip for _, service in config.nat_services if service.vip.version == pool.version]
    if vips and all(vip in condition.blocked and vip in elsewhere for vip in vips):
        return Announcement(False, condition.blocked[vips[0]], fault=True)
    if pool in config.former_pools:
        empty = "no session has an address of it any more: remove table.previous.nat"
        return Announcement(True, "sessions still have addresses of it") if former_used else Announcement(False, empty)
    if pool in config.resized_pools:
        resized = "all nodes have its new prefix: remove table.previous.nat"
        return (
            Announcement(True, "other nodes have this prefix of it") if nodes_differ else Announcement(False, resized)
        )
    before = [one for one in config.resized_pools if one.version == pool.version]
    if nodes_differ and any(one.prefixlen < pool.prefixlen for one in before):
        return Announcement(False, "other nodes have its larger prefix")
    return Announcement(True, "forwarding")


def _obstacle(config: Config, one: Announced, condition: Condition) -> Announcement | None:
    """Return why this node can announce nothing of this kind; None if it can."""
    if not config.node.announce:
        return Announcement(False, "node.announce is false: a member only")
    if condition.admin_state is not State.UP:
        return Announcement(False, f"the node is {condition.admin_state}")
    if not condition.forwarding:
        return Announcement(False, "the data path is not ready", fault=True)
    if f"ipv{one.version}" not in config.bgp.carries:
        return Announcement(False, f"no BGP peer carries IPv{one.version}; add it to a peer's families")
    if one.version == 6 and not (condition.has_ipv6 or config.announce_of(one).next_hop):
        return Announcement(False, "the node's interface has no IPv6 address to be the next hop")
    return None
