# SPDX-License-Identifier: Apache-2.0
"""The Adj-RIBs-In behind the reconciler: sessions, End-of-RIB, the list of learned routes, and the limit of memory."""

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

from bgp.relay.adj_rib_in import MAX_ROUTES, QUIET_S
from bgp.relay.protocol import MAX_LINE_BYTES
from bgp.relay.reconciler import Reconciler
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


@pytest.mark.slow
def test_memory_is_bounded_and_ignored_routes_are_listed_again_when_there_is_room():
    routes = [
        Route.of(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}/32", "10.0.0.12", [[1, 1, 1]] * 3)
        for i in range(MAX_ROUTES + 5)
    ]
    exabgp = ExaBGPModel()
    reconciler = started(exabgp)
    for route in routes:
        reconciler.receive(update(PEER, [route]), 1.0)
    reconciler.tick(1.0)
    assert len(learned(reconciler)) == MAX_ROUTES
    assert "are ignored" in reconciler.snapshot().error
    assert len(reconciler.snapshot().encode()) < MAX_LINE_BYTES
    exabgp.learned = routes[2000:]
    for route in routes[:2000]:
        reconciler.receive(update(PEER, [], [route.prefix]), 2.0)
    reconciler.tick(2.0)
    converse(reconciler, exabgp, 2.0)
    assert set(learned(reconciler)) == set(routes[2000:])
    assert reconciler.snapshot().error is None
