# SPDX-License-Identifier: Apache-2.0
"""The routes that a node desires its relay to announce: its identity, and its VIPs with what a drain adds. Pure.

Owns the VIPs' routes; the identity is membership/identity.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from agent.address import Address
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
) -> tuple[list[Route], list[Route]]:
    """Return (the routes to announce, the fallback for when this agent falls silent). `vips` has each VIP's drain
    method; `next_hop6` is the next hop of IPv6 VIPs.

    The fallback is the identity alone, which says that no VIP is announced: a node without an agent stays a member,
    since its data path answers for itself.
    """
    own = {
        vip: with_drain_attributes(route, method)
        for vip, method in vips.items()
        if (route := vip_route(config, vip, address, next_hop6))
    }
    live, fallback = (identity_route(config, address, address6, start, announced) for announced in (own, ()))
    return [live, *own.values()], [fallback]


def vip_route(config: Config, vip: Address, address: IPv4Address, address6: IPv6Address | None) -> Route | None:
    """Return a VIP's route with its attributes from lb.yml; None for an IPv6 VIP of a node without an IPv6 address.

    The next hop is explicit, in the VIP's own family: ExaBGP's "self" is wrong where the session's family differs.
    """
    configured = config.announce_of(vip)
    next_hop = configured.next_hop or (address if vip.version == 4 else address6)
    if next_hop is None:
        return None
    return Route.of(
        vip_prefix(vip),
        str(next_hop),
        configured.large_communities,
        communities=configured.communities,
        med=configured.med,
        prepend=configured.prepend,
        next_hop_self=configured.next_hop is None,
    )


def vip_prefix(vip: Address) -> str:
    """Return a VIP as the prefix of its route: /32 or /128."""
    return f"{vip}/{vip.max_prefixlen}"


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
