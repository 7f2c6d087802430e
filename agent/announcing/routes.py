# SPDX-License-Identifier: Apache-2.0
"""The routes that a node desires its relay to announce: its identity, its VIPs with what a drain adds, and the pools of
NAT. Pure.

Owns the routes of VIPs and pools; the identity is membership/identity.py's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from agent.address import Address, Announced, Network
from agent.config.schema import Config
from agent.membership.identity import identity_route
from agent.model import Method
from bgp.route import MAX_PREPEND, Community, Route

PREPEND = 3
"""How often `prepend` repeats the own AS: a longer path than any detour in a sane fabric."""
MED = 4_294_967_294
"""The MED that `med` announces. Lower is better (RFC 4271 section 5.1.4); some routers read a missing MED as the
highest of all, so this is one less."""
GRACEFUL_SHUTDOWN: Community = (65535, 0)
"""RFC 8326 section 4: routers that know it give the route the lowest LOCAL_PREF."""


def desired_routes(
    config: Config,
    address: IPv4Address,
    address6: IPv6Address | None,
    next_hop6: IPv6Address | None,
    start: int,
    vips: Mapping[Address, Method | None],
    pools: Collection[Network] = (),
) -> tuple[list[Route], list[Route]]:
    """Return (the routes to announce, the fallback for when this agent falls silent). `vips` has each VIP's drain
    method; `next_hop6` is the next hop of IPv6 VIPs and pools.

    The fallback is the identity alone, which says that no VIP is announced: a node without an agent stays a member,
    since its data path answers for itself. Other nodes forward to it what routers send them for its sessions.
    """
    own = {
        vip: with_drain_attributes(route, method)
        for vip, method in vips.items()
        if (route := route_of(config, vip, address, next_hop6))
    }
    of_pools = [route for pool in pools if (route := route_of(config, pool, address, next_hop6))]
    live, fallback = (identity_route(config, address, address6, start, announced) for announced in (own, ()))
    return [live, *own.values(), *of_pools], [fallback]


def route_of(config: Config, one: Announced, address: IPv4Address, address6: IPv6Address | None) -> Route | None:
    """Return the route of a VIP or a pool, with its attributes from lb.yml; None for IPv6 on a node without an IPv6
    address.

    The next hop is explicit, in the route's own family: ExaBGP's "self" is wrong where the session's family differs.
    """
    configured = config.announce_of(one)
    next_hop = configured.next_hop or (address if one.version == 4 else address6)
    if next_hop is None:
        return None
    return Route.of(
        prefix_of(one),
        str(next_hop),
        configured.large_communities,
        communities=configured.communities,
        med=configured.med,
        prepend=configured.prepend,
        next_hop_self=configured.next_hop is None,
    )


def prefix_of(one: Announced) -> str:
    """Return the prefix of a route: a VIP's is /32 or /128."""
    return str(one) if isinstance(one, IPv4Network | IPv6Network) else f"{one}/{one.max_prefixlen}"


def with_drain_attributes(route: Route, method: Method | None) -> Route:
    """Return a VIP's route with the attributes that a drain adds."""
    match method:
        case Method.PREPEND:
            return replace(route, prepend=min(route.prepend + PREPEND, MAX_PREPEND))
        case Method.MED:
            return replace(route, med=MED)
        case Method.GSHUT:
            return replace(route, communities=tuple(sorted({*route.communities, GRACEFUL_SHUTDOWN})))
    return route
