# SPDX-License-Identifier: Apache-2.0
"""Identities between the model and BGP: what a node announces, and which received identities another accepts."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from agent.config.bgp import PeerConfig
from agent.config.file import parse
from agent.config.schema import Config
from agent.membership import identity
from agent.membership.peer_table import Advertisement
from agent.model import Share, State
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
WEB = identity.service_id_of(CONFIG.services[0])
SHARES = {WEB: Share(50, 50, State.UP)}


def announced(
    config: Config = CONFIG,
    address: IPv4Address = A,
    shares: dict[int, Share] = SHARES,
    address6: IPv6Address | None = None,
    version: int = 0,
) -> Route:
    """The route by which a node announces its identity."""
    own = identity.own_identity(config, address, [99], shares, address6)
    return identity.identity_route(config, replace(own, version=version))


def received(
    *routes: Route, up: bool = True, own: IPv4Address = B, connected: bool = True
) -> dict[IPv4Address, Advertisement]:
    """What a node accepts of these routes."""
    peer = Peer("10.0.0.1", up=up, since=1.0, eor=True, routes=routes, announced=frozenset())
    found = identity.peer_reports(CONFIG, Snapshot((peer,)), connected, own)
    assert found["10.0.0.1"].up is (up and connected)
    return dict(found["10.0.0.1"].advertisements)


def test_announced_identity_is_received_unchanged() -> None:
    assert received(announced()) == {A: Advertisement(A, 99, SHARES)}


def test_own_reflection_is_ignored() -> None:
    assert received(announced(), own=A) == {}


def test_nothing_is_received_from_a_peer_that_is_down_or_without_the_relay() -> None:
    assert received(announced(), up=False) == {}
    assert received(announced(), connected=False) == {}
    assert identity.peer_reports(CONFIG, None, True, B)["10.0.0.1"].up is False


def test_peer_that_did_not_negotiate_ipv4_counts_as_down() -> None:
    """It advertises no identities; that must not make members lost."""
    both = parse(TEXT.replace("as: 65000}", "as: 65000}, {address: '2001:db8::1', as: 65000}"), "lb.yml")
    peer = Peer("10.0.0.1", up=True, since=1.0, eor=True)
    assert identity.peer_reports(both, Snapshot((peer,)), True, B).keys() == {"10.0.0.1"}
    assert identity.peer_reports(both, Snapshot((peer,)), True, B)["10.0.0.1"].up
    six_only = replace(peer, families=frozenset({"ipv6"}))
    assert not identity.peer_reports(both, Snapshot((six_only,)), True, B)["10.0.0.1"].up


def test_own_reflections_are_compared_by_content_not_by_version() -> None:
    live = identity.own_identity(CONFIG, A, [99], SHARES, None)
    silent = identity.own_identity(CONFIG, A, [99], identity.fallback_shares(SHARES), None)
    assert identity.content_digest(live) == identity.content_digest(replace(live, version=5))
    assert identity.content_digest(live) != identity.content_digest(silent)
    live_route = identity.identity_route(CONFIG, replace(live, version=100))
    silent_route = identity.identity_route(CONFIG, replace(silent, version=101))
    peers = tuple(
        Peer(name, up, since=1.0, eor=True, routes=(route,))
        for name, up, route in (
            ("10.0.0.1", True, live_route),
            ("10.0.0.2", True, silent_route),
            ("10.0.0.3", False, live_route),
        )
    )
    found = identity.own_reflections(CONFIG, Snapshot(peers), A)
    assert found == [(100, identity.content_digest(live)), (101, identity.content_digest(silent))]
    assert identity.own_reflections(CONFIG, Snapshot(peers), B) == []
    assert identity.own_reflections(CONFIG, None, A) == []


def test_two_clusters_on_one_fabric_never_mix() -> None:
    """The same addresses and prefixes, advertised by the same router: only the cluster's number differs."""
    other = CONFIG.model_copy(update={"cluster": 8})
    ours = announced(version=100)
    theirs = announced(other, shares={WEB: Share(1, 1, State.UP)}, version=500)
    routes = {"10.0.0.1": ours, "10.0.0.2": theirs}
    snapshot = Snapshot(tuple(Peer(name, True, 1.0, True, (route,)) for name, route in routes.items()))
    both = CONFIG.bgp.model_copy(update={"peers": (*CONFIG.bgp.peers, PeerConfig(address="10.0.0.2", asn=65000))})
    for cluster, number in ((CONFIG, 100), (other, 500)):
        config = cluster.model_copy(update={"bgp": both})
        reports = identity.peer_reports(config, snapshot, True, B)
        assert [a.version for report in reports.values() for a in report.advertisements.values()] == [number]
        assert [version for version, _ in identity.own_reflections(config, snapshot, A)] == [number]
        assert identity.unreadable_identities(config, snapshot) == []


def test_rejected_identities() -> None:
    other_cluster = CONFIG.model_copy(update={"cluster": 8})
    assert received(announced(address=IPv4Address("10.9.0.11"))) == {}, "outside members.allow"
    assert received(announced(other_cluster)) == {}
    # An identity under another node's prefix: the prefix is what a router's filter can check, so it must match.
    assert received(replace(announced(), prefix="10.254.0.12/32")) == {}
    assert received(Route.of("192.0.2.0/24", "10.0.0.1")) == {}


def test_ipv6_address_is_accepted_only_within_members_allow() -> None:
    both = parse(TEXT.replace("[10.0.0.0/24]", "[10.0.0.0/24, 2001:db8::/64]"), "lb.yml")
    inside, outside = IPv6Address("2001:db8::11"), IPv6Address("2001:db8:1::11")

    def accepted(address6: IPv6Address) -> IPv6Address | None:
        peer = Peer("10.0.0.1", up=True, since=1.0, eor=True, routes=(announced(both, address6=address6),))
        return identity.peer_reports(both, Snapshot((peer,)), True, B)["10.0.0.1"].advertisements[A].address6

    assert accepted(inside) == inside
    assert accepted(outside) is None
