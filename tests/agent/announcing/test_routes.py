# SPDX-License-Identifier: Apache-2.0
"""Between the agent's words and BGP's: what one node announces, another hears as meant, if it may believe it."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from agent.announcing import routes
from agent.announcing.decide import MED
from agent.config.bgp import PeerConfig
from agent.config.epoch import supported_epochs
from agent.config.file import parse
from agent.membership.identity_version import Version
from agent.membership.peer_table import Advertisement
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
WEB = routes.id_of(CONFIG.services[0])
SHARES = {WEB: Share(50, 50, State.UP)}


def heard(
    *sent: Route, up: bool = True, own: IPv4Address = B, connected: bool = True
) -> dict[IPv4Address, Advertisement]:
    peer = Peer("10.0.0.1", up=up, since=1.0, eor=True, routes=sent, announced=frozenset())
    found = routes.peer_reports(CONFIG, Snapshot((peer,)), connected, own)
    assert found["10.0.0.1"].up is (up and connected)
    return dict(found["10.0.0.1"].told)


def test_what_is_announced_is_heard_as_meant() -> None:
    desired, fallback = routes.desired_routes(CONFIG, A, [99], SHARES, dict.fromkeys(CONFIG.vips))
    assert [route.prefix for route in desired] == ["10.254.0.11/32", "192.0.2.10/32"]
    assert {route.next_hop for route in desired} == {"10.0.0.11"}
    assert heard(*desired) == {A: Advertisement(A, 99, SHARES)}
    assert [route.prefix for route in fallback] == ["10.254.0.11/32"]
    assert heard(*fallback) == {A: Advertisement(A, 99, {WEB: Share(50, 0, State.DRAINING, announced=False)})}


def test_what_a_node_supports_is_heard() -> None:
    desired, fallback = routes.desired_routes(CONFIG, A, [99, 98], SHARES, {})
    for sent in (desired, fallback):
        assert (heard(*sent)[A].epoch, heard(*sent)[A].epochs) == (99, (98,))


def test_the_method_of_a_drain_is_in_the_route_and_a_withheld_vip_in_the_identity() -> None:
    vip = CONFIG.vips[0]
    desired, _ = routes.desired_routes(CONFIG, A, [99], SHARES, {vip: Method.MED})
    assert desired[1].med == MED
    shares = {WEB: Share(50, 50, State.UP, announced=False)}
    desired, _ = routes.desired_routes(CONFIG, A, [99], shares, {})
    assert heard(*desired) == {A: Advertisement(A, 99, shares)}


def test_a_silent_agent_that_had_left_stays_left() -> None:
    _, fallback = routes.desired_routes(CONFIG, A, [99], {WEB: Share(50, 0, State.LEFT)}, {})
    assert heard(*fallback)[A].shares == {WEB: Share(50, 0, State.LEFT, announced=False)}


def test_the_fallback_is_told_under_a_version_above_the_live_one() -> None:
    desired, fallback = routes.desired_routes(CONFIG, A, [99], SHARES, {}, version=Version(100))
    assert heard(*desired)[A].version == 100
    assert heard(*fallback)[A].version == 101


def test_own_reflections_are_told_apart_by_content_not_by_version() -> None:
    said = routes.identity(CONFIG, A, [99], SHARES, None)
    other = routes.identity(CONFIG, A, [99], routes.fallback_shares(SHARES), None)
    assert routes.content(said) == routes.content(replace(said, version=5))
    assert routes.content(said) != routes.content(other)
    desired, fallback = routes.desired_routes(CONFIG, A, [99], SHARES, dict.fromkeys(CONFIG.vips), version=Version(100))
    peers = tuple(
        Peer(name, up, since=1.0, eor=True, routes=tuple(routes))
        for name, up, routes in (
            ("10.0.0.1", True, desired),
            ("10.0.0.2", True, fallback),
            ("10.0.0.3", False, desired),
        )
    )
    found = routes.own_reflections(CONFIG, Snapshot(peers), A)
    assert found == [(100, routes.content(said)), (101, routes.content(other))]
    assert routes.own_reflections(CONFIG, Snapshot(peers), B) == []
    assert routes.own_reflections(CONFIG, None, A) == []


def test_own_reflection_is_ignored() -> None:
    desired, _ = routes.desired_routes(CONFIG, A, [99], SHARES, {})
    assert heard(*desired, own=A) == {}


def test_nothing_is_heard_from_a_peer_that_is_down_or_over_a_lost_relay() -> None:
    desired, _ = routes.desired_routes(CONFIG, A, [99], SHARES, {})
    assert heard(*desired, up=False) == {}
    assert heard(*desired, connected=False) == {}
    assert routes.peer_reports(CONFIG, None, True, B)["10.0.0.1"].up is False


def test_two_clusters_on_one_fabric_never_mix() -> None:
    """The same addresses, prefixes and VIPs, told by the same router: only the cluster's number differs."""
    other = CONFIG.model_copy(update={"cluster": 8})
    ours = routes.desired_routes(CONFIG, A, [99], SHARES, dict.fromkeys(CONFIG.vips), version=Version(100))[0]
    theirs = routes.desired_routes(
        other, A, [1], {WEB: Share(1, 1, State.UP)}, dict.fromkeys(CONFIG.vips), version=Version(500)
    )[0]
    peers = {"10.0.0.1": ours, "10.0.0.2": theirs}
    snapshot = Snapshot(tuple(Peer(name, True, 1.0, True, tuple(routes)) for name, routes in peers.items()))
    both = CONFIG.bgp.model_copy(update={"peers": (*CONFIG.bgp.peers, PeerConfig(address="10.0.0.2", asn=65000))})
    for cluster, number in ((CONFIG, 100), (other, 500)):
        config = cluster.model_copy(update={"bgp": both})
        found = routes.peer_reports(config, snapshot, True, B)
        assert [told.version for report in found.values() for told in report.told.values()] == [number]
        assert [version for version, _ in routes.own_reflections(config, snapshot, A)] == [number]
        assert routes.unreadable_identities(config, snapshot) == []


def test_who_is_not_believed() -> None:
    outsider = IPv4Address("10.9.0.11")
    other_cluster = CONFIG.model_copy(update={"cluster": 8})
    assert heard(*routes.desired_routes(CONFIG, outsider, [99], SHARES, {})[0]) == {}
    assert heard(*routes.desired_routes(other_cluster, A, [99], SHARES, {})[0]) == {}
    # An identity under another node's prefix: the prefix is what a router's filter can check, so it must match.
    identity = routes.desired_routes(CONFIG, A, [99], SHARES, {})[0][0]
    assert heard(replace(identity, prefix="10.254.0.12/32")) == {}
    assert heard(Route.of("192.0.2.0/24", "10.0.0.1")) == {}


def test_the_epoch_tells_what_decides_rows() -> None:
    def epoch(old: str = "", new: str = "") -> int:
        text = TEXT.replace(old, new)
        assert old in TEXT
        return supported_epochs(parse(text, "lb.yml"))[0].number

    usual = epoch()
    assert epoch("weight: 50", "weight: 60, when_no_member: drop") == usual
    assert epoch("port: 443", "port: 444") == usual, "nodes may serve different services"
    others = [
        epoch("cluster: 7", "cluster: 8"),
        epoch("members:", "table: {rows: 4096}\nmembers:"),
        epoch("members:", "table: {chain: 3}\nmembers:"),
        epoch("weight: 50", "hash: maglev"),
        epoch("weight: 50", "affinity: 3-tuple"),
        epoch("weight: 50", "affinity: 2-tuple"),
    ]
    assert len({usual, *others}) == 7


def test_a_vips_route_has_a_next_hop_of_its_family_and_all_that_lb_yml_says() -> None:
    text = TEXT.replace("weight: 50", "weight: 50, announce: {med: 5, prepend: 2, communities: ['65000:9'], "
                        "large_communities: ['65000:1:2']}")  # fmt: skip
    text = text.replace("bgp:", "  - {name: six, vip: '2001:db8:99::1', protocol: tcp, port: 443}\nbgp:")
    config = parse(text, "lb.yml")
    vip, vip6 = config.vips
    here6 = IPv6Address("2001:db8::b")
    assert routes.vip_route(config, vip, A, here6) == Route(
        "192.0.2.10/32", "10.0.0.11", ((65000, 1, 2),), (), ((65000, 9),), 5, 2, True
    )
    assert routes.vip_route(config, vip6, A, here6) == Route("2001:db8:99::1/128", "2001:db8::b", own_hop=True)
    elsewhere = parse(text.replace("med: 5", "next_hop: 10.0.0.99"), "lb.yml")
    hop = routes.vip_route(elsewhere, vip, A, here6)
    assert hop is not None
    assert (hop.next_hop, hop.own_hop) == ("10.0.0.99", False)


def test_a_peer_that_took_no_ipv4_says_nothing_of_identities() -> None:
    """It looks like a peer that is down: that it tells no identities must not make members lost."""
    six = parse(TEXT.replace("as: 65000}", "as: 65000}, {address: '2001:db8::1', as: 65000}"), "lb.yml")
    peer = Peer("10.0.0.1", up=True, since=1.0, eor=True)
    assert routes.peer_reports(six, Snapshot((peer,)), True, B).keys() == {"10.0.0.1"}
    assert routes.peer_reports(six, Snapshot((peer,)), True, B)["10.0.0.1"].up
    assert not routes.peer_reports(six, Snapshot((replace(peer, families=frozenset({"ipv6"})),)), True, B)[
        "10.0.0.1"
    ].up


def test_an_ipv6_vip_of_a_node_without_an_ipv6_address_is_not_announced() -> None:
    vips = [*CONFIG.vips, IPv6Address("2001:db8:99::1")]
    assert [route.prefix for route in routes.desired_routes(CONFIG, A, [99], SHARES, dict.fromkeys(vips))[0]] == [
        "10.254.0.11/32",
        "192.0.2.10/32",
    ]


def test_an_ipv6_address_is_believed_inside_members_allow_only() -> None:
    both = parse(TEXT.replace("[10.0.0.0/24]", "[10.0.0.0/24, 2001:db8::/64]"), "lb.yml")
    inside, outside = IPv6Address("2001:db8::11"), IPv6Address("2001:db8:1::11")

    def told(address6: IPv6Address) -> IPv6Address | None:
        sent = routes.desired_routes(both, A, [99], SHARES, {}, address6)[0]
        peer = Peer("10.0.0.1", up=True, since=1.0, eor=True, routes=tuple(sent), announced=frozenset())
        return routes.peer_reports(both, Snapshot((peer,)), True, B)["10.0.0.1"].told[A].address6

    assert told(inside) == inside
    assert told(outside) is None
