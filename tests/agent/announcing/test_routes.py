# SPDX-License-Identifier: Apache-2.0
"""The routes that a node desires: its identity, its VIPs with their attributes, and the fallback."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from agent.announcing.routes import (
    GRACEFUL_SHUTDOWN,
    MED,
    PREPEND,
    desired_routes,
    vip_route,
    with_drain_attributes,
)
from agent.config.file import parse
from agent.membership.identity import service_id_of
from agent.membership.identity_version import Version
from agent.membership.peer_table import Advertisement
from agent.membership.received import IdentityReader
from agent.model import Method, Share, State
from bgp.relay.protocol import Peer, Snapshot
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
A, B = IPv4Address("10.0.0.11"), IPv4Address("10.0.0.12")
WEB = service_id_of(CONFIG.services[0])
SHARES = {WEB: Share(50, 50, State.UP)}


def received(*routes: Route) -> dict[IPv4Address, Advertisement]:
    """What B accepts of these routes."""
    peer = Peer("10.0.0.1", up=True, since=1.0, eor=True, routes=routes)
    return dict(IdentityReader(CONFIG, B).read(Snapshot((peer,)), True).reports["10.0.0.1"].advertisements)


def test_desired_routes_and_fallback_carry_the_identity() -> None:
    desired, fallback = desired_routes(CONFIG, A, [99], SHARES, dict.fromkeys(CONFIG.vips))
    assert [route.prefix for route in desired] == ["10.254.0.11/32", "192.0.2.10/32"]
    assert {route.next_hop for route in desired} == {"10.0.0.11"}
    assert received(*desired) == {A: Advertisement(A, 99, SHARES)}
    assert [route.prefix for route in fallback] == ["10.254.0.11/32"]
    assert received(*fallback) == {A: Advertisement(A, 99, {WEB: Share(50, 0, State.DRAINING, announced=False)})}


def test_supported_epochs_are_in_the_desired_routes_and_the_fallback() -> None:
    desired, fallback = desired_routes(CONFIG, A, [99, 98], SHARES, {})
    for routes in (desired, fallback):
        assert (received(*routes)[A].epoch, received(*routes)[A].epochs) == (99, (98,))


def test_drain_method_is_in_the_route_and_a_withdrawn_vip_in_the_identity() -> None:
    vip = CONFIG.vips[0]
    desired, _ = desired_routes(CONFIG, A, [99], SHARES, {vip: Method.MED})
    assert desired[1].med == MED
    shares = {WEB: Share(50, 50, State.UP, announced=False)}
    desired, _ = desired_routes(CONFIG, A, [99], shares, {})
    assert received(*desired) == {A: Advertisement(A, 99, shares)}


def test_fallback_of_a_node_that_left_stays_left() -> None:
    _, fallback = desired_routes(CONFIG, A, [99], {WEB: Share(50, 0, State.LEFT)}, {})
    assert received(*fallback)[A].shares == {WEB: Share(50, 0, State.LEFT, announced=False)}


def test_fallback_has_a_version_above_the_live_one() -> None:
    desired, fallback = desired_routes(CONFIG, A, [99], SHARES, {}, version=Version(100))
    assert received(*desired)[A].version == 100
    assert received(*fallback)[A].version == 101


def test_vip_route_has_a_next_hop_of_its_family_and_the_attributes_of_lb_yml() -> None:
    text = TEXT.replace("weight: 50", "weight: 50, announce: {med: 5, prepend: 2, communities: ['65000:9'], "
                        "large_communities: ['65000:1:2']}")  # fmt: skip
    text = text.replace("bgp:", "  - {name: six, vip: '2001:db8:99::1', protocol: tcp, port: 443}\nbgp:")
    config = parse(text, "lb.yml")
    vip, vip6 = config.vips
    own6 = IPv6Address("2001:db8::b")
    assert vip_route(config, vip, A, own6) == Route(
        "192.0.2.10/32", "10.0.0.11", ((65000, 1, 2),), (), ((65000, 9),), 5, 2, True
    )
    assert vip_route(config, vip6, A, own6) == Route("2001:db8:99::1/128", "2001:db8::b", next_hop_self=True)
    elsewhere = parse(text.replace("med: 5", "next_hop: 10.0.0.99"), "lb.yml")
    route = vip_route(elsewhere, vip, A, own6)
    assert route is not None
    assert (route.next_hop, route.next_hop_self) == ("10.0.0.99", False)


def test_ipv6_vip_of_a_node_without_an_ipv6_address_is_not_announced() -> None:
    vips = [*CONFIG.vips, IPv6Address("2001:db8:99::1")]
    assert [route.prefix for route in desired_routes(CONFIG, A, [99], SHARES, dict.fromkeys(vips))[0]] == [
        "10.254.0.11/32",
        "192.0.2.10/32",
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
