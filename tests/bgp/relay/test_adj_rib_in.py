# SPDX-License-Identifier: Apache-2.0
"""The Adj-RIBs-In behind the reconciler: sessions, End-of-RIB, the list of learned routes, and the limits."""

import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from support.exabgp_model import (
    LEARNED,
    OTHER,
    PEER,
    ExaBGPModel,
    converse,
    end_of_rib,
    learned,
    listed_route,
    session_event,
    started,
    update,
)

from bgp.community import Identity, encode
from bgp.relay.adj_rib_in import QUIET_S
from bgp.relay.reconciler import Reconciler
from bgp.relay.rib import MAX_BYTES, MAX_ROUTES, Rib
from bgp.route import Route


def test_session_down_drops_the_routes_of_that_neighbor_only():
    exabgp = ExaBGPModel(learned=[LEARNED], peers=(PEER, OTHER), up=(PEER, OTHER))
    reconciler = started(exabgp)
    reconciler.receive(session_event(PEER, "down"), 3.0)
    assert learned(reconciler, PEER) == ()
    assert learned(reconciler, OTHER) == (LEARNED,)
    revision = reconciler.revision
    reconciler.receive(session_event(PEER, "down"), 4.0)
    assert reconciler.revision == revision, "a failed attempt to reconnect is no change"
    assert reconciler.snapshot().peers[0].since == 3.0
    reconciler.receive(session_event(PEER, "up"), 5.0)
    reconciler.receive(update(PEER, [LEARNED]), 5.1)
    peer = reconciler.snapshot().peers[0]
    assert (peer.up, peer.since, peer.eor, len(peer.routes)) == (True, 5.0, False, 1)


def test_reason_of_the_end_stays_and_that_of_the_last_attempt_follows_it():
    reconciler = started(ExaBGPModel(up=()))

    def after(state, reason, now):
        reconciler.receive(session_event(PEER, state, reason), now)
        peer = reconciler.snapshot().peers[0]
        return peer.why, peer.retry_s, peer.since

    assert after("down", "closing connection: refused; next try within 1 s", 1.0) == ("refused", 1, 0.0)
    assert after("up", None, 2.0) == ("", None, 2.0)
    assert after("down", "it ended; next try within 1 s", 3.0) == ("it ended", 1, 3.0)
    assert after("down", "closing connection: refused; next try within 1 s", 4.0) == ("it ended; now: refused", 1, 3.0)
    revision = reconciler.revision
    assert after("down", "closing connection: refused; next try within 1 s", 5.0) == ("it ended; now: refused", 1, 3.0)
    assert reconciler.revision == revision, "the same reason again is no news"
    rejected = "notification received (2,2); next try within 1 s"
    why = after("down", rejected, 5.5)
    assert "wrong AS" in why[0]
    assert after("down", "closing connection: closed by the remote end; next try within 1 s", 5.6) == why, (
        "less is known"
    )
    assert after("down", "it ended; next try within 2 s", 6.0) == ("it ended", 2, 3.0)


def test_end_of_rib_is_received_or_inferred_from_silence_or_time():
    reconciler = started(ExaBGPModel(up=()))
    reconciler.receive(session_event(PEER, "up"), 1.0)
    reconciler.receive(end_of_rib(PEER, "ipv6"), 1.1)
    assert not reconciler.snapshot().peers[0].eor, "identities are IPv4 routes"
    reconciler.receive(end_of_rib(PEER, "ipv4"), 1.1)
    assert reconciler.snapshot().peers[0].eor
    reconciler.receive(session_event(PEER, "up"), 10.0)
    reconciler.receive(update(PEER, [LEARNED]), 11.0)
    reconciler.tick(11.0 + QUIET_S - 0.1)
    assert not reconciler.snapshot().peers[0].eor
    reconciler.tick(11.0 + QUIET_S)
    assert reconciler.snapshot().peers[0].eor
    reconciler.receive(session_event(PEER, "up"), 20.0)
    for tenth in range(101):
        assert not reconciler.snapshot().peers[0].eor
        reconciler.receive(update(PEER, [LEARNED]), 20.0 + tenth / 10)
        reconciler.tick(20.0 + tenth / 10)
    assert reconciler.snapshot().peers[0].eor


def test_update_during_the_list_is_newer_than_the_list():
    """ExaBGP takes the list when asked; updates that come while it is read are between its lines."""
    changed = Route.of(LEARNED.prefix, "10.0.0.13")
    gone, back = Route.of("10.254.0.13/32", "10.0.0.12"), Route.of("10.254.0.14/32", "10.0.0.12")
    reconciler = Reconciler(0.0)
    exabgp = ExaBGPModel()
    while (commands := reconciler.commands()) != ["show adj-rib in json"]:
        for command in commands:
            for line in exabgp.answer(command):
                reconciler.receive(line, 0.0)
    reconciler.receive(update(PEER, [changed], [gone.prefix]), 0.0)
    for route in (LEARNED, gone, back):
        reconciler.receive(listed_route(PEER, route), 0.0)
    reconciler.receive("done", 0.0)
    assert set(learned(reconciler)) == {changed, back}


def test_route_updated_during_the_list_stays_though_the_list_does_not_contain_it():
    reconciler = started(ExaBGPModel(learned=[LEARNED]))
    adj_rib_in = reconciler._adj_rib_in
    adj_rib_in.begin_listing()
    changed = Route.of(LEARNED.prefix, "10.0.0.13")
    reconciler.receive(update(PEER, [changed]), 1.0)
    adj_rib_in.end_listing()
    assert learned(reconciler) == (changed,)
    adj_rib_in.begin_listing()
    adj_rib_in.end_listing()
    assert learned(reconciler) == ()


def test_session_down_before_exabgp_has_described_the_neighbor_leaves_no_route():
    reconciler = Reconciler(0.0)
    reconciler.receive(update(PEER, [LEARNED]), 0.0)
    reconciler.receive(session_event(PEER, "down"), 0.0)
    converse(reconciler, ExaBGPModel(up=()), 0.0)
    assert learned(reconciler) == ()


def test_session_down_during_the_list_leaves_no_route():
    reconciler = Reconciler(0.0)
    exabgp = ExaBGPModel()
    while (commands := reconciler.commands()) != ["show adj-rib in json"]:
        for command in commands:
            for line in exabgp.answer(command):
                reconciler.receive(line, 0.0)
    reconciler.receive(listed_route(PEER, LEARNED), 0.0)
    reconciler.receive(session_event(PEER, "down"), 0.0)
    reconciler.receive("done", 0.0)
    assert learned(reconciler) == ()


def test_limit_costs_only_the_routes_of_the_neighbor_that_exceeds_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Rib.__init__, "__defaults__", (20, MAX_BYTES))
    routes = [Route.of(f"10.254.0.{i}/32", "10.0.0.12") for i in range(25)]
    exabgp = ExaBGPModel(learned=routes[:3], peers=(PEER, OTHER), up=(PEER, OTHER))
    reconciler = started(exabgp)
    for route in routes:
        reconciler.receive(update(PEER, [route]), 1.0)
    reconciler.tick(1.0)
    converse(reconciler, exabgp, 1.0)
    assert len(learned(reconciler)) == 20
    assert set(learned(reconciler, OTHER)) == set(routes[:3])
    assert re.match(rf"neighbor {PEER} sends more than 16384 routes.*: some are ignored; filter", reconciler.error)
    assert "show adj-rib in json" not in exabgp.received[5:], "no room yet"

    exabgp.learned = routes[10:]
    for route in routes[:10]:
        reconciler.receive(update(PEER, [], [route.prefix]), 2.0)
        reconciler.receive(update(OTHER, routes[10:], [route.prefix]), 2.0)
    reconciler.tick(2.0)
    converse(reconciler, exabgp, 2.0)
    assert set(learned(reconciler)) == set(routes[10:]), "listed again when there is room"
    assert set(learned(reconciler, OTHER)) == set(routes[10:])
    assert reconciler.error is None


IDENTITIES = ip_network("10.254.0.0/16")


@pytest.mark.slow
def test_leak_of_20000_routes_crowds_no_identity_out():
    identities = [Route.of(f"10.254.0.{i}/32", "10.0.0.12") for i in range(20, 30)]
    leak = [Route(f"100.{i >> 8}.{i & 255}.0/24", "10.0.0.12") for i in range(20_000)]
    exabgp = ExaBGPModel(learned=identities[:5])
    reconciler = started(exabgp, learned=[IDENTITIES])
    for first in range(0, len(leak), 500):
        reconciler.receive(update(PEER, leak[first : first + 500]), 1.0)
    reconciler.receive(update(PEER, identities[5:]), 2.0)
    reconciler.tick(2.0)
    (peer,) = reconciler.snapshot().peers
    assert set(peer.routes) == set(identities)
    assert peer.foreign == 20_000
    assert reconciler.error is None, "nothing is missing"
    reconciler.receive(update(PEER, [], [route.prefix for route in leak]), 3.0)
    assert reconciler.snapshot().peers[0].foreign == 0, "the router is repaired"


def test_foreign_routes_are_counted_in_the_list_and_anew_in_each_session():
    foreign = [Route.of(prefix, "10.0.0.12") for prefix in ("0.0.0.0/0", "10.254.0.0/24", "192.0.2.1/32")]
    exabgp = ExaBGPModel(learned=[*foreign, LEARNED])
    reconciler = started(exabgp, learned=[IDENTITIES])
    assert learned(reconciler) == (LEARNED,)
    assert reconciler.snapshot().peers[0].foreign == 3
    reconciler.receive(session_event(PEER, "down"), 1.0)
    reconciler.receive(session_event(PEER, "up"), 2.0)
    reconciler.receive(update(PEER, foreign[:1]), 2.1)
    assert reconciler.snapshot().peers[0].foreign == 1


def test_another_allowlist_makes_the_relay_list_again():
    vip = Route.of("192.0.2.1/32", "10.0.0.12")
    exabgp = ExaBGPModel(learned=[LEARNED, vip])
    reconciler = started(exabgp, learned=[IDENTITIES])
    revision = reconciler.revision
    reconciler.set_allowed((), [IDENTITIES], 1.0)
    converse(reconciler, exabgp, 1.0)
    assert reconciler.revision == revision, "the same list is no news"
    reconciler.set_allowed((), [ip_network("192.0.2.0/24")], 2.0)
    converse(reconciler, exabgp, 2.0)
    assert learned(reconciler) == (vip,)
    assert reconciler.snapshot().peers[0].foreign == 1


def test_list_that_repeats_what_is_known_changes_no_object():
    route = replace(LEARNED, as_path=())
    reconciler = started(ExaBGPModel(learned=[route]))
    adj_rib_in = reconciler._adj_rib_in
    before, revision = learned(reconciler), adj_rib_in.revision
    adj_rib_in.begin_listing()
    adj_rib_in.add_listed(PEER, replace(route))
    adj_rib_in.end_listing()
    reconciler.receive(update(PEER, [route]), 1.0)
    assert learned(reconciler) is before
    assert adj_rib_in.revision == revision, "nor is there anything to report"


def test_a_thousand_identities_fit_with_room_for_many_more():
    rib = Rib()
    for number in range(1000):
        address = IPv4Address("10.0.0.1") + number
        communities = encode(Identity(4242, address, IPv6Address(number), number + 1, announces=True))
        rib.put(Route.of(f"10.254.{number >> 8}.{number & 255}/32", str(address), communities, [65000, 65001]))
    assert len(rib.routes) == 1000
    assert rib.has_room
    assert rib._bytes < MAX_BYTES / 15
    assert len(rib.routes) < MAX_ROUTES / 15
