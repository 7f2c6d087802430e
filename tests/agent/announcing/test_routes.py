# SPDX-License-Identifier: Apache-2.0
"""The routes that a node desires: its identity, its VIPs with their attributes, and the fallback."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from agent.announcing.routes import (
    GRACEFUL_SHUTDOWN,
    MED,
    PREPEND,
    desired_routes,
    route_of,
    with_drain_attributes,
)
from agent.config.file import parse
from agent.membership.digest import vip_digest
from agent.model import Method
from bgp.community import Identity, decode
from bgp.route import Route

TEXT = """\
cluster: 7
node: {interface: eth0}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443, forward: l2, weight: 50}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
"""
CONFIG = parse(TEXT, "lb.yml")
A, A6 = IPv4Address("10.0.0.11"), IPv6Address("2001:db8::b")


def identity(route: Route) -> Identity | None:
    return decode(route.large_communities, CONFIG.cluster)


def test_desired_routes_and_fallback_carry_the_identity() -> None:
    desired, fallback = desired_routes(CONFIG, A, A6, None, 7, dict.fromkeys(CONFIG.vips))
    assert [route.prefix for route in desired] == ["10.254.0.11/32", "192.0.2.10/32"]
    assert {route.next_hop for route in desired} == {"10.0.0.11"}
    assert identity(desired[0]) == Identity(7, A, A6, 7, vip_digest(CONFIG.vips[0]))
    # A node without an agent stays a member, but is none of those that announce (bgp/relay/quorum.py).
    assert fallback == [replace(desired[0], large_communities=fallback[0].large_communities)]
    assert identity(fallback[0]) == Identity(7, A, A6, 7)


def test_identity_of_a_node_that_announces_no_vip_is_the_fallback() -> None:
    desired, fallback = desired_routes(CONFIG, A, None, None, 7, {})
    assert desired == fallback
    assert identity(desired[0]) == Identity(7, A, start=7)
    # An IPv6 VIP that has no next hop is not announced either.
    six = desired_routes(CONFIG, A, None, None, 7, {IPv6Address("2001:db8:99::1"): None})
    assert six == (desired, fallback)


def test_identity_does_not_depend_on_what_the_node_serves() -> None:
    second = "  - {name: alt, vip: 192.0.2.10, protocol: tcp, port: 80, forward: l2}\nbgp:"
    other = parse(TEXT.replace("weight: 50", "weight: 5").replace("bgp:", second), "lb.yml")
    vips = dict.fromkeys(CONFIG.vips)
    assert desired_routes(other, A, A6, None, 7, vips) == desired_routes(CONFIG, A, A6, None, 7, vips)


def test_drain_method_is_in_the_route_of_the_vip_alone() -> None:
    vip = CONFIG.vips[0]
    desired, fallback = desired_routes(CONFIG, A, None, None, 7, {vip: Method.MED})
    assert [route.med for route in desired] == [None, MED]
    assert desired_routes(CONFIG, A, None, None, 7, {vip: None}) == (
        [desired[0], replace(desired[1], med=None)],
        fallback,
    )


def test_route_has_a_next_hop_of_its_family_and_the_attributes_of_lb_yml() -> None:
    text = TEXT.replace("weight: 50", "weight: 50, announce: {med: 5, prepend: 2, communities: ['65000:9'], "
                        "large_communities: ['65000:1:2']}")  # fmt: skip
    text = text.replace("bgp:", "  - {name: six, vip: '2001:db8:99::1', protocol: tcp, port: 443}\nbgp:")
    config = parse(text, "lb.yml")
    vip, vip6 = config.vips
    own6 = IPv6Address("2001:db8::b")
    assert route_of(config, vip, A, own6) == Route(
        "192.0.2.10/32", "10.0.0.11", ((65000, 1, 2),), (), ((65000, 9),), 5, 2, True
    )
    assert route_of(config, vip6, A, own6) == Route("2001:db8:99::1/128", "2001:db8::b", next_hop_self=True)
    elsewhere = parse(text.replace("med: 5", "next_hop: 10.0.0.99"), "lb.yml")
    route = route_of(elsewhere, vip, A, own6)
    assert route is not None
    assert (route.next_hop, route.next_hop_self) == ("10.0.0.99", False)


def test_ipv6_vip_of_a_node_without_an_ipv6_address_is_not_announced() -> None:
    vips = [*CONFIG.vips, IPv6Address("2001:db8:99::1")]
    desired, _ = desired_routes(CONFIG, A, A6, None, 7, dict.fromkeys(vips))
    assert [route.prefix for route in desired] == ["10.254.0.11/32", "192.0.2.10/32"]
    desired, _ = desired_routes(CONFIG, A, None, A6, 7, dict.fromkeys(vips))
    assert [(route.prefix, route.next_hop) for route in desired[2:]] == [("2001:db8:99::1/128", "2001:db8::b")]


def test_pool_is_announced_as_a_prefix_with_the_next_hop_of_vips() -> None:
    pools = "nat: {pool: 10.255.0.0/27, pool6: 'fd00:ff::/123'}\n"
    config, own6 = parse(TEXT + pools, "lb.yml"), IPv6Address("2001:db8::b")
    vips = dict.fromkeys(config.vips)
    without, fallback = desired_routes(config, A, None, own6, 7, vips)
    desired, same = desired_routes(config, A, None, own6, 7, vips, config.pools)
    assert desired == [
        *without,
        Route("10.255.0.0/27", "10.0.0.11", next_hop_self=True),
        Route("fd00:ff::/123", "2001:db8::b", next_hop_self=True),
    ]
    assert same == fallback, "without an agent the others get what is for this node's sessions"
    alone, _ = desired_routes(config, A, None, own6, 7, {}, config.pools)
    assert [route.prefix for route in alone] == ["10.254.0.11/32", "10.255.0.0/27", "fd00:ff::/123"]
    assert identity(alone[0]) == Identity(7, A, start=7), "a pool makes no announcer"
    desired, _ = desired_routes(config, A, None, None, 7, {}, config.pools)
    assert [route.prefix for route in desired] == ["10.254.0.11/32", "10.255.0.0/27"], "no IPv6 next hop"


def test_route_of_a_pool_has_the_attributes_of_lb_yml() -> None:
    announce = "{med: 5, communities: ['65000:9'], next_hop: 10.0.0.99}"
    pools = f"nat: {{pool: 10.255.0.0/27, pool6: 'fd00:ff::/123', announce: {announce}}}\n"
    config = parse(TEXT + pools, "lb.yml")
    found = [route_of(config, pool, A, A6) for pool in config.pools]
    assert found == [
        Route("10.255.0.0/27", "10.0.0.99", (), (), ((65000, 9),), 5),
        Route("fd00:ff::/123", "2001:db8::b", (), (), ((65000, 9),), 5, next_hop_self=True),
    ]


def test_drain_attributes() -> None:
    route = Route.of("192.0.2.10/32", "10.0.0.11", communities=[(65000, 1)], med=5, prepend=1)
    assert with_drain_attributes(route, None) == route
    assert with_drain_attributes(route, Method.PREPEND) == replace(route, prepend=1 + PREPEND)
    assert with_drain_attributes(route, Method.MED) == replace(route, med=MED)
    gshut = with_drain_attributes(route, Method.GSHUT)
    assert gshut == replace(route, communities=((65000, 1), GRACEFUL_SHUTDOWN))
    assert with_drain_attributes(gshut, Method.GSHUT) == gshut
    for method in (Method.PREPEND, Method.MED, Method.GSHUT):
        changed = with_drain_attributes(route, method)
        assert Route.of(*(getattr(changed, name) for name in Route.__slots__)) == changed, "canonical"
    full = replace(route, prepend=16)
    assert with_drain_attributes(full, Method.PREPEND).prepend == 16, "the most that ExaBGP repeats"
