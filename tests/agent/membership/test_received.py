# SPDX-License-Identifier: Apache-2.0
"""Received identities: what a node announces, and what another reads out of the routes that routers send it."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from agent.config.bgp import PeerConfig
from agent.config.file import parse
from agent.config.schema import Config
from agent.membership import identity
from agent.membership.peer_table import Advertisement, PeerReport
from agent.membership.received import IdentityReader, Received
from agent.model import Share, State
from bgp.relay.protocol import Peer, Snapshot
from bgp.relay.report import ReportReader, encode_changes
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


def read(snapshot: Snapshot | None, config: Config = CONFIG, own: IPv4Address = B, connected: bool = True) -> Received:
    """What a node reads out of one snapshot."""
    return IdentityReader(config, own).read(snapshot, connected)


def reports(snapshot: Snapshot | None, config: Config = CONFIG) -> dict[str, PeerReport]:
    return dict(read(snapshot, config).reports)


def received(
    *routes: Route, up: bool = True, own: IPv4Address = B, connected: bool = True
) -> dict[IPv4Address, Advertisement]:
    """What a node accepts of these routes."""
    peer = Peer("10.0.0.1", up=up, since=1.0, eor=True, routes=routes)
    found = read(Snapshot((peer,)), own=own, connected=connected).reports
    assert found["10.0.0.1"].up is (up and connected)
    return dict(found["10.0.0.1"].advertisements)


def test_announced_identity_is_received_unchanged() -> None:
    assert received(announced()) == {A: Advertisement(A, 99, SHARES)}


def test_own_reflection_is_ignored() -> None:
    assert received(announced(), own=A) == {}


def test_nothing_is_received_from_a_peer_that_is_down_or_without_the_relay() -> None:
    assert received(announced(), up=False) == {}
    assert received(announced(), connected=False) == {}
    assert reports(None)["10.0.0.1"].up is False


def test_peer_that_did_not_negotiate_ipv4_counts_as_down() -> None:
    """It advertises no identities; that must not make members lost."""
    both = parse(TEXT.replace("as: 65000}", "as: 65000}, {address: '2001:db8::1', as: 65000}"), "lb.yml")
    peer = Peer("10.0.0.1", up=True, since=1.0, eor=True)
    assert reports(Snapshot((peer,)), both).keys() == {"10.0.0.1"}
    assert reports(Snapshot((peer,)), both)["10.0.0.1"].up
    six_only = replace(peer, families=frozenset({"ipv6"}))
    assert not reports(Snapshot((six_only,)), both)["10.0.0.1"].up


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
    found = read(Snapshot(peers), own=A).reflections
    assert found == ((100, identity.content_digest(live)), (101, identity.content_digest(silent)))
    assert read(Snapshot(peers), own=B).reflections == ()
    assert read(None, own=A).reflections == ()


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
        found = read(snapshot, config)
        assert [a.version for report in found.reports.values() for a in report.advertisements.values()] == [number]
        assert [version for version, _ in read(snapshot, config, A).reflections] == [number]
        assert found.unreadable == ()


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
        return reports(Snapshot((peer,)), both)["10.0.0.1"].advertisements[A].address6

    assert accepted(inside) == inside
    assert accepted(outside) is None


def test_each_route_is_decoded_once_and_equal_identities_are_one() -> None:
    """A route that has not changed is the same object in the next snapshot; so is everything that is read out of it."""
    peers = (*CONFIG.bgp.peers, PeerConfig(address="10.0.0.2", asn=65000))
    config = CONFIG.model_copy(update={"bgp": CONFIG.bgp.model_copy(update={"peers": peers})})
    a, b = announced(), announced(address=IPv4Address("10.0.0.13"), version=4)
    first = Peer("10.0.0.1", True, 1.0, True, (a, b))
    second = Peer("10.0.0.2", True, 1.0, True, (replace(a), b))
    reader = IdentityReader(config, B)
    before = reader.read(Snapshot((first, second)), True)
    of_first, of_second = (report.advertisements for report in before.reports.values())
    assert of_first[A] is of_second[A], "the two routers' copies of one identity are one object"
    assert reader.read(Snapshot((first, second)), True).reports["10.0.0.1"] is before.reports["10.0.0.1"]

    changed = replace(second, routes=(announced(version=6), b))
    after = reader.read(Snapshot((first, changed)), True)
    assert after.reports["10.0.0.1"] is before.reports["10.0.0.1"]
    assert after.reports["10.0.0.2"].advertisements[A].version == 6
    assert after.reports["10.0.0.2"].advertisements[b_address(b)] is of_second[b_address(b)]
    assert not reader.read(Snapshot((replace(first, up=False, routes=()), changed)), True).reports["10.0.0.1"].up


def test_what_the_relay_does_not_report_as_changed_is_not_read_again() -> None:
    """The contract between the relay's reports and this reader: the objects stay."""
    peers = (*CONFIG.bgp.peers, PeerConfig(address="10.0.0.2", asn=65000))
    config = CONFIG.model_copy(update={"bgp": CONFIG.bgp.model_copy(update={"peers": peers})})
    a, b = announced(), announced(address=IPv4Address("10.0.0.13"), version=4)
    states = [
        Snapshot(
            tuple(Peer(name, True, 1.0, True, (a, route)) for name, route in (("10.0.0.1", b), ("10.0.0.2", last)))
        )
        for last in (b, announced(address=IPv4Address("10.0.0.13"), version=6))
    ]
    relay, reader, before, found = ReportReader(), IdentityReader(config, B), Snapshot(), []
    for state in states:
        *_, snapshot = map(relay.receive, encode_changes(before, state))
        assert isinstance(snapshot, Snapshot)
        found.append(reader.read(snapshot, True).reports)
        before = state
    first, second = found
    assert second["10.0.0.1"] is first["10.0.0.1"]
    assert second["10.0.0.2"].advertisements[A] is first["10.0.0.2"].advertisements[A]
    assert second["10.0.0.2"].advertisements[b_address(b)].version == 6


def b_address(route: Route) -> IPv4Address:
    return IPv4Address(route.next_hop)
