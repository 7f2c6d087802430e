# SPDX-License-Identifier: Apache-2.0
"""Received identities: what a node announces, and what another reads out of the routes that routers send it."""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from agent.config.file import parse
from agent.config.schema import Config
from agent.membership.identity import identity_route
from agent.membership.received import IdentityReader, Named, OtherCluster, Received, SeenIdentity
from bgp.relay.protocol import Peer, Snapshot
from bgp.relay.report import ReportReader, encode_changes
from bgp.route import Route

TEXT = """\
cluster: 7
node: {interface: eth0}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443, forward: l2, weight: 50}
bgp:
  local_as: 65001
  identity_prefix: 10.254.0.0/16
  peers: [{address: 10.0.0.1, as: 65000}, {address: 10.0.0.2, as: 65000}]
members: {allow: [10.0.0.0/24, '2001:db8::/64']}
"""
CONFIG = parse(TEXT, "lb.yml")
A, B, C = (IPv4Address(f"10.0.0.{number}") for number in (11, 12, 13))
R1, R2 = "10.0.0.1", "10.0.0.2"


def announced(
    address: IPv4Address = A,
    start: int = 5,
    announces: bool = True,
    address6: IPv6Address | None = None,
    config: Config = CONFIG,
    as_path: Sequence[int] = (65001,),
) -> Route:
    """The route by which a node announces its identity, as another one learns it."""
    route = identity_route(config, address, address6, start, config.vips if announces else ())
    return replace(route, as_path=tuple(as_path), next_hop_self=False)


def peer(*routes: Route, name: str = R1, up: bool = True, since: float = 1.0, eor: bool = True) -> Peer:
    return Peer(name, up, since, eor, routes if up else ())


def read(*peers: Peer, config: Config = CONFIG, own: IPv4Address = B, connected: bool = True) -> Received:
    """What a node reads out of one snapshot."""
    return IdentityReader(config, own).read(Snapshot(peers), connected)


def by_bgp(start: int = 5, address6: IPv6Address | None = None, announces: bool = True) -> Named:
    return Named(address6, start, announces)


def test_announced_identity_names_its_node() -> None:
    found = read(peer(announced()))
    assert found.named == {A: by_bgp()}
    assert found.seen == (SeenIdentity(R1, "10.254.0.11/32", A, 5, 65001, announces=True),)
    assert found.seen[0].source == "10.0.0.1 (from AS 65001)"
    (internal,) = read(peer(announced(announces=False, as_path=()))).seen
    assert (internal.announces, internal.source) == (False, "10.0.0.1")


def test_own_reflection_is_seen_and_names_nobody() -> None:
    found = read(peer(announced()), own=A)
    assert found.named == {}
    assert [(one.address, one.start) for one in found.seen] == [(A, 5)]


def test_routers_that_name_the_same_node_name_it_once_with_the_newest_start() -> None:
    """A router that has not yet propagated the restart of an agent must not hide it."""
    old, new = announced(start=5), announced(start=6, address6=IPv6Address("2001:db8::b"))
    for first, second in ((old, new), (new, old)):
        found = read(peer(first), peer(second, announced(C, start=3), name=R2))
        assert found.named == {A: by_bgp(6, IPv6Address("2001:db8::b")), C: by_bgp(3)}
        assert [(one.peer, one.address) for one in found.seen] == [(R1, A), (R2, A), (R2, C)]


def test_nothing_is_received_from_a_peer_that_is_down_or_without_the_relay() -> None:
    reader = IdentityReader(CONFIG, B)
    assert reader.read(None, True) == Received()
    assert read(peer(up=False)) == Received()
    assert read(peer(announced()), connected=False) == Received()
    # Routes of a session that is down are stale.
    assert read(Peer(R1, up=False, since=1.0, eor=True, routes=(announced(),))) == Received()
    assert read(peer(announced(), name="10.0.0.9")) == Received(), "a peer that the configuration does not have"


def test_it_is_complete_with_the_first_end_of_rib() -> None:
    assert not read(peer(announced(), eor=False)).complete
    assert read(peer(announced(), eor=False), peer(name=R2)).complete
    assert not read(peer(up=False), peer(announced(), name=R2, eor=False)).complete


def test_peer_that_did_not_negotiate_ipv4_counts_as_down() -> None:
    """It advertises no identities, so its End-of-RIB does not complete them."""
    six_only = replace(peer(), families=frozenset({"ipv6"}))
    assert not read(six_only).complete
    configured = parse(TEXT.replace("10.0.0.2, as: 65000}", "10.0.0.2, as: 65000, families: [ipv6]}"), "lb.yml")
    assert not read(peer(name=R2), config=configured).complete


def test_two_clusters_on_one_fabric_never_mix() -> None:
    """The same addresses and prefixes, advertised by the same router: only the cluster's number differs."""
    other = CONFIG.model_copy(update={"cluster": 8})
    ours, theirs = announced(start=100), announced(start=500, config=other)
    for config, start in ((CONFIG, 100), (other, 500)):
        found = read(peer(ours), peer(theirs, name=R2), config=config)
        assert found.named == {A: by_bgp(start)}
        assert [one.start for one in found.seen] == [start]
        assert found.unreadable == ()


# Other clusters


OTHER = CONFIG.model_copy(update={"cluster": 8})
OTHER_VIPS = parse(TEXT.replace("192.0.2.10", "192.0.2.20").replace("cluster: 7", "cluster: 8"), "lb.yml")
VIP = CONFIG.vips[0]


def test_node_with_another_cluster_and_the_same_vip_is_found_on_both_ends() -> None:
    """A number that is wrong on one node: nothing else differs."""
    routes = announced(A), announced(B, config=OTHER)
    assert read(peer(*routes), own=A).other_clusters == {OtherCluster(B, 8, VIP)}
    assert read(peer(*routes), peer(*routes, name=R2), own=B, config=OTHER).other_clusters == {OtherCluster(A, 7, VIP)}


def test_two_clusters_with_vips_of_their_own_are_not_named() -> None:
    """Both are right: one router, one network, the same prefix of identities."""
    routes = announced(A), announced(B, config=OTHER_VIPS)
    for config, own in ((CONFIG, A), (OTHER_VIPS, B)):
        assert read(peer(*routes), own=own, config=config).other_clusters == frozenset()


@pytest.mark.parametrize(
    "route",
    [
        announced(C, config=OTHER, announces=False),
        announced(IPv4Address("10.9.0.11"), config=OTHER),
        announced(B, config=OTHER),
    ],
    ids=["it announces nothing", "of another network, as of another site", "an old one of this node itself"],
)
def test_identity_of_another_cluster_that_takes_no_packets_of_this_one(route: Route) -> None:
    assert read(peer(route)).other_clusters == frozenset()


def test_other_cluster_is_found_by_any_of_several_vips() -> None:
    second = "  - {name: alt, vip: 192.0.2.20, protocol: tcp, port: 443, forward: l2}\nbgp:"
    both = parse(TEXT.replace("bgp:", second), "lb.yml")
    for other, vip in ((OTHER, VIP), (OTHER_VIPS, OTHER_VIPS.vips[0])):
        assert read(peer(announced(A, config=other)), config=both).other_clusters == {OtherCluster(A, 8, vip)}


def test_rejected_identities_are_seen_and_name_nobody() -> None:
    outside = read(peer(announced(IPv4Address("10.9.0.11"))))
    assert outside.named == {}
    assert [(one.allowed, one.own_prefix) for one in outside.seen] == [(False, True)]
    # An identity under another node's prefix: the prefix is what a router's filter can check, so it must match.
    moved = read(peer(replace(announced(), prefix="10.254.0.12/32")))
    assert moved.named == {}
    assert [(one.allowed, one.own_prefix, one.prefix) for one in moved.seen] == [(True, False, "10.254.0.12/32")]


def test_other_routes_are_neither_seen_nor_unreadable() -> None:
    others = Route.of("192.0.2.0/24", "10.0.0.1"), announced(config=OTHER_VIPS)
    assert read(peer(*others)) == Received(complete=True)


def test_identity_that_cannot_be_decoded_is_named_with_its_prefix() -> None:
    whole = announced()
    cut = replace(whole, large_communities=whole.large_communities[1:])
    found = read(peer(cut, announced(C)))
    (line,) = found.unreadable
    assert line.startswith("10.254.0.11/32: identity: cluster 7 without an address: install the same release")
    assert found.named.keys() == {C}


def test_identity_whose_communities_were_stripped_is_named_with_the_router() -> None:
    """A node whose routers strip them would otherwise just be alone."""
    bare = replace(announced(), large_communities=())
    found = read(peer(bare, announced(C), name=R2))
    (line,) = found.unreadable
    assert line.startswith("10.254.0.11/32, received from 10.0.0.2, has no large communities: ")
    assert found.named.keys() == {C}
    # Another cluster's identity has some, and other prefixes need none.
    foreign = announced(config=CONFIG.model_copy(update={"cluster": 8}))
    others = Route.of("10.253.0.11/32", "10.0.0.11"), Route.of("2001:db8:99::1/128", "2001:db8::b")
    assert read(peer(foreign, *others)).unreadable == ()


@pytest.mark.parametrize(("address6", "accepted"), [("2001:db8::11", True), ("2001:db8:1::11", False)])
def test_ipv6_address_is_accepted_only_within_members_allow(address6: str, accepted: bool) -> None:
    """The node itself is a candidate either way."""
    found = read(peer(announced(address6=IPv6Address(address6))))
    assert found.named == {A: by_bgp(5, IPv6Address(address6) if accepted else None)}


# Withdrawals


def withdrawals(*steps: Sequence[Peer], own: IPv4Address = B) -> list[frozenset[IPv4Address]]:
    """Who is reported as withdrawn in each of these snapshots."""
    reader = IdentityReader(CONFIG, own)
    return [reader.read(Snapshot(tuple(peers)), True).withdrawn for peers in steps]


NONE: frozenset[IPv4Address] = frozenset()


def test_withdrawn_identity_is_reported_once() -> None:
    both, one = peer(announced(), announced(C)), peer(announced(C))
    assert withdrawals([both], [one], [replace(one)], [both], [one]) == [NONE, {A}, NONE, NONE, {A}]


def test_withdrawal_by_one_router_is_reported_although_another_still_names_the_node() -> None:
    """It is a reason to ask the node, not to drop it."""
    second = peer(announced(), name=R2)
    reader = IdentityReader(CONFIG, B)
    reader.read(Snapshot((peer(announced()), second)), True)
    found = reader.read(Snapshot((peer(), second)), True)
    assert (found.withdrawn, found.named) == ({A}, {A: by_bgp()})


def test_changed_identity_is_not_withdrawn() -> None:
    assert withdrawals([peer(announced())], [peer(announced(start=6, announces=False))]) == [NONE, NONE]


@pytest.mark.parametrize(
    ("what", "after"),
    [
        ("the session is down", [peer(up=False, since=2.0)]),
        ("a new session has sent nothing yet", [peer(since=2.0, eor=False)]),
        ("the peer is not reported any more", []),
    ],
)
def test_end_of_a_session_withdraws_nobody(what: str, after: list[Peer]) -> None:
    assert withdrawals([peer(announced(), announced(C))], after) == [NONE, NONE], what


def test_identity_that_a_new_session_does_not_name_is_no_withdrawal() -> None:
    """The nodes that the session before had named mean nothing for this one."""
    later = peer(announced(C), since=2.0)
    assert withdrawals([peer(announced(), announced(C))], [peer(up=False)], [later]) == [NONE, NONE, NONE]
    assert withdrawals([peer(announced())], [later], [peer(since=2.0)]) == [NONE, NONE, {C}]


def test_while_the_relay_is_away_nobody_is_withdrawn() -> None:
    reader = IdentityReader(CONFIG, B)
    full, empty = Snapshot((peer(announced()),)), Snapshot((peer(),))
    reader.read(full, True)
    assert reader.read(full, False).withdrawn == NONE
    assert reader.read(empty, True).withdrawn == NONE


def test_rejected_and_own_identities_are_never_withdrawn() -> None:
    rejected = replace(announced(), prefix="10.254.0.99/32"), announced(IPv4Address("10.9.0.11")), announced(B)
    assert withdrawals([peer(*rejected)], [peer()]) == [NONE, NONE]


# What does not change


def test_each_route_is_read_once_and_what_is_equal_stays_one_object() -> None:
    """A route that has not changed is the same object in the next snapshot; so is everything that is read out of it."""
    a, c = announced(), announced(C, start=4)
    first, second = peer(a, c), peer(replace(a), c, name=R2)
    reader = IdentityReader(CONFIG, B)
    snapshot = Snapshot((first, second))
    before = reader.read(snapshot, True)
    assert reader.read(snapshot, True) is before
    assert before.seen[0].address is before.seen[2].address, "the two routers' copies name one object"

    changed = replace(second, routes=(announced(announces=False), c))
    after = reader.read(Snapshot((first, changed)), True)
    assert after.named is before.named, "another router says the same of it"
    assert after.seen[0] is before.seen[0]
    assert after.seen[1] is before.seen[1]
    assert after.seen[2].announces is False
    assert after.seen[3] is before.seen[3]
    again = reader.read(Snapshot((first, replace(second, routes=(announced(start=6), c)))), True)
    assert again.named == {A: by_bgp(6), C: by_bgp(4)}


def test_what_the_relay_does_not_report_as_changed_is_not_read_again() -> None:
    """The contract between the relay's reports and this reader: the objects stay."""
    a, c = announced(), announced(C, start=4)
    states = [Snapshot((peer(a, c), peer(a, last, name=R2))) for last in (c, announced(C, start=6))]
    relay, reader, before, found = ReportReader(), IdentityReader(CONFIG, B), Snapshot(), []
    for state in states:
        *_, snapshot = map(relay.receive, encode_changes(before, state))
        assert isinstance(snapshot, Snapshot)
        found.append(reader.read(snapshot, True).seen)
        before = state
    first, second = found
    assert [one.start for one in second] == [5, 4, 5, 6]
    assert all(one is other for one, other in zip(first[:3], second[:3], strict=True))


def test_memory_of_nodes_that_are_gone_is_bounded() -> None:
    """Identities come from whoever may announce below the prefix."""
    reader = IdentityReader(CONFIG, B)
    for number in range(1000):
        address = IPv4Address("10.9.0.0") + number
        reader.read(Snapshot((peer(announced(address)),)), True)
    assert len(reader._addresses) <= 2 + 64
    assert len(reader._reads) == 1
