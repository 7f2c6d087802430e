# SPDX-License-Identifier: Apache-2.0
"""The reconciler against a model of ExaBGP: which commands it sends, in which order, and when it sends none."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from support.exabgp_model import (
    ALLOWED,
    DRAINING,
    IDENTITY,
    INTERNAL,
    LEARNED,
    LOCAL_ADDRESS,
    OTHER,
    PEER,
    VIP,
    VIP6,
    ExaBGPModel,
    converse,
    learned,
    listed_route,
    session_event,
    started,
)

from bgp.exabgp.messages import PING
from bgp.relay.protocol import DesiredRoutes
from bgp.relay.reconciler import HUNG_S, PING_S, SILENT_S, Reconciler
from bgp.route import Route

V, I = {VIP.prefix: VIP}, {IDENTITY.prefix: IDENTITY}  # noqa: E741


def changes(exabgp):
    return [command for command in exabgp.received if command.startswith("neighbor ")]


def test_each_neighbor_gets_routes_of_its_families_with_its_own_as():
    exabgp = ExaBGPModel(peers=(PEER, OTHER, INTERNAL), up=(PEER, OTHER, INTERNAL))
    exabgp.families[OTHER] = ("ipv6",)
    exabgp.local_as |= {OTHER: 65009, INTERNAL: 65000}
    reconciler = started(exabgp)
    vip6 = Route.of("2001:db8::1/128", "2001:db8::b", med=5, prepend=2, communities=[[65000, 1]])
    reconciler.set_desired(DesiredRoutes((VIP, vip6), ()), 1.0)
    converse(reconciler, exabgp, 1.0)
    plain = replace(vip6, prepend=0)
    assert exabgp.adj_rib_out == {
        PEER: V | {vip6.prefix: replace(plain, as_path=(65001, 65001, 65001))},
        OTHER: {vip6.prefix: replace(plain, as_path=(65009, 65009, 65009))},
        INTERNAL: V | {vip6.prefix: plain},  # towards its own AS a prepended path would look like a loop
    }
    assert reconciler.snapshot().error is None
    reconciler.set_desired(DesiredRoutes((replace(VIP, next_hop_self=True), vip6), ()), 1.5)
    converse(reconciler, exabgp, 1.5)
    assert exabgp.adj_rib_out[PEER][VIP.prefix] == replace(VIP, next_hop=LOCAL_ADDRESS), "our address of the session"
    reconciler.set_desired(DesiredRoutes((VIP, vip6), ()), 1.6)
    converse(reconciler, exabgp, 1.6)
    seen = len(changes(exabgp))
    reconciler.set_desired(DesiredRoutes((VIP, replace(vip6, med=6)), ()), 2.0)
    converse(reconciler, exabgp, 2.0)
    assert len(changes(exabgp)) == seen + 3, "and no other route is sent again"
    assert {routes[vip6.prefix].med for routes in exabgp.adj_rib_out.values()} == {6}


def test_neighbor_added_or_changed_by_a_reload_gets_all_routes_once_up():
    exabgp = ExaBGPModel()
    reconciler = started(exabgp)
    reconciler.set_desired(DesiredRoutes((VIP,), ()), 1.0)
    converse(reconciler, exabgp, 1.0)
    exabgp.adj_rib_out[OTHER] = {}
    exabgp.local_as[OTHER], exabgp.families[OTHER] = 65001, ("ipv4",)
    exabgp.up.add(OTHER)
    reconciler.receive(session_event(OTHER, "up"), 2.0)
    reconciler.tick(2.0)
    converse(reconciler, exabgp, 2.0)
    assert exabgp.adj_rib_out == {PEER: V, OTHER: V}
    # With another AS it is a new neighbor to ExaBGP: an empty Adj-RIB-Out under a known address.
    exabgp.adj_rib_out[OTHER].clear()
    reconciler.receive(session_event(OTHER, "down"), 3.0)
    reconciler.receive(session_event(OTHER, "up"), 3.1)
    reconciler.tick(3.1)
    converse(reconciler, exabgp, 3.1)
    assert exabgp.adj_rib_out == {PEER: V, OTHER: V}


def test_neighbor_removed_by_a_reload_is_removed():
    exabgp = ExaBGPModel(peers=(PEER, OTHER), up=(PEER, OTHER), learned=[LEARNED])
    reconciler = started(exabgp)
    reconciler.set_desired(DesiredRoutes((VIP,), ()), 1.0)
    converse(reconciler, exabgp, 1.0)
    del exabgp.adj_rib_out[OTHER]
    reconciler.receive(session_event(OTHER, "down"), 2.0)
    reconciler.tick(2.0)
    converse(reconciler, exabgp, 2.0)
    assert [peer.address for peer in reconciler.snapshot().peers] == [PEER, OTHER], "it may only be down"
    reconciler.tick(3.1)
    converse(reconciler, exabgp, 3.1)
    assert [peer.address for peer in reconciler.snapshot().peers] == [PEER]
    reconciler.set_desired(DesiredRoutes((IDENTITY,), ()), 4.0)
    converse(reconciler, exabgp, 4.0)
    assert reconciler.snapshot().error is None


def test_first_relay_announces_the_desired_routes_and_verifies():
    exabgp = ExaBGPModel()
    reconciler = started(exabgp)
    assert changes(exabgp) == []
    reconciler.set_desired(DesiredRoutes((IDENTITY, VIP), (DRAINING,)), 1.0)
    converse(reconciler, exabgp, 1.0)
    assert exabgp.announced == {VIP.prefix: VIP, IDENTITY.prefix: IDENTITY}
    assert exabgp.received[-1] == "show adj-rib out json"
    assert reconciler.snapshot().advertised == {VIP.prefix, IDENTITY.prefix}
    assert reconciler.snapshot().error is None


def test_successor_of_a_killed_relay_changes_no_correct_route():
    exabgp = ExaBGPModel(announced=[VIP, IDENTITY], learned=[LEARNED])
    reconciler = started(exabgp)
    converse(reconciler, exabgp, 9.0)
    reconciler.set_desired(DesiredRoutes((VIP, IDENTITY), ()), 9.0)
    converse(reconciler, exabgp, 9.0)
    assert changes(exabgp) == []
    assert learned(reconciler) == (LEARNED,)
    assert reconciler.snapshot().peers[0].eor
    assert reconciler.snapshot().advertised == {VIP.prefix, IDENTITY.prefix}


def test_answers_to_commands_of_a_killed_predecessor_are_ignored():
    reconciler = Reconciler(0.0)
    assert reconciler.commands() == ["reset", "version"]
    for line in ("done", "error", listed_route(PEER, VIP), "done"):
        reconciler.receive(line, 0.0)
        assert reconciler.commands() == []
    reconciler.receive("exabgp 5.0.15", 0.0)
    reconciler.receive("done", 0.0)
    assert reconciler.commands() == ["show neighbor json"]


def test_refused_command_is_an_error_and_retried_after_a_second():
    exabgp = ExaBGPModel()
    reconciler = started(exabgp)
    exabgp.refused.add(VIP.announce_command(PEER))
    reconciler.set_desired(DesiredRoutes((VIP, IDENTITY), ()), 1.0)
    converse(reconciler, exabgp, 1.0)
    assert changes(exabgp).count(VIP.announce_command(PEER)) == 1
    assert exabgp.announced == {IDENTITY.prefix: IDENTITY}, "one refusal does not delay the others"
    assert "refused" in reconciler.snapshot().error
    exabgp.refused.clear()
    reconciler.set_desired(DesiredRoutes((VIP, IDENTITY), ()), 1.9)
    converse(reconciler, exabgp, 1.9)
    assert VIP.prefix not in exabgp.announced
    reconciler.set_desired(DesiredRoutes((VIP, IDENTITY), ()), 2.1)
    converse(reconciler, exabgp, 2.1)
    assert reconciler.snapshot().advertised == {VIP.prefix, IDENTITY.prefix}
    assert reconciler.snapshot().error is None


def test_done_without_effect_is_an_error():
    exabgp = ExaBGPModel(announced=[VIP])
    reconciler = started(exabgp)
    exabgp.ignored.add(VIP.withdraw_command(PEER))
    reconciler.set_desired(DesiredRoutes((), ()), 1.0)
    converse(reconciler, exabgp, 1.0)
    assert "adj-rib-out differs" in reconciler.snapshot().error
    assert reconciler.snapshot().advertised == {VIP.prefix}
    reconciler.set_desired(DesiredRoutes((VIP,), ()), 1.5)
    converse(reconciler, exabgp, 1.5)
    assert reconciler.snapshot().error is None, "the error ends with the desire for the change"


def test_command_without_an_answer_is_an_error_then_the_relay_exits():
    reconciler = Reconciler(0.0)
    reconciler.tick(6.0)
    assert reconciler.snapshot().error == "ExaBGP does not answer 'version'"
    assert not reconciler.hung(HUNG_S)
    assert reconciler.hung(HUNG_S + 1)


def test_exabgp_is_asked_each_second_and_silent_after_two_without_an_answer():
    reconciler = started(ExaBGPModel())
    reconciler.tick(PING_S - 0.1)
    assert reconciler.commands() == []
    reconciler.tick(PING_S)
    assert reconciler.commands() == [PING]
    reconciler.tick(SILENT_S)
    assert not reconciler.snapshot().silent
    revision = reconciler.revision
    reconciler.tick(SILENT_S + 0.1)
    snapshot = reconciler.snapshot()
    assert (snapshot.silent, snapshot.error) == (True, "ExaBGP does not answer '# ping'")
    assert reconciler.revision > revision
    assert [peer.up for peer in snapshot.peers] == [True], "what was learned stays in use"
    reconciler.receive("done", 9.0)
    assert (reconciler.snapshot().silent, reconciler.snapshot().error) == (False, None)


def test_any_line_of_exabgp_is_a_sign_of_life():
    reconciler = started(ExaBGPModel())
    reconciler.receive(session_event(OTHER, "down"), PING_S)
    reconciler.tick(2 * PING_S - 0.1)
    assert reconciler.commands() == []


def test_time_in_which_the_relay_did_not_run_is_not_silence():
    reconciler = started(ExaBGPModel())
    reconciler.tick(100.0)
    assert reconciler.commands() != []
    assert not reconciler.snapshot().silent


def test_adj_rib_out_is_verified_every_half_minute_and_repaired():
    exabgp = ExaBGPModel()
    reconciler = started(exabgp)
    reconciler.set_desired(DesiredRoutes((VIP,), (VIP,)), 1.0)
    converse(reconciler, exabgp, 1.0)
    exabgp.announced.clear()
    reconciler.tick(32.0)
    converse(reconciler, exabgp, 32.0)
    assert exabgp.announced == {VIP.prefix: VIP}


def test_nothing_outside_the_allowlist_is_announced_whatever_the_agent_desires():
    exabgp = ExaBGPModel()
    reconciler = started(exabgp)
    others = [Route.of(prefix, "10.0.0.11") for prefix in ("10.99.0.0/31", "8.8.8.8/32", "10.254.0.12/32", "0.0.0.0/0")]
    reconciler.set_desired(DesiredRoutes((VIP, IDENTITY, *others), (DRAINING, *others)), 1.0)
    converse(reconciler, exabgp, 1.0)
    assert exabgp.announced == V | I
    assert "10.99.0.0/31, 8.8.8.8/32, 10.254.0.12/32" in reconciler.snapshot().error
    assert "bgp.allow" in reconciler.snapshot().error
    reconciler.tick(12.0)
    converse(reconciler, exabgp, 12.0)
    assert exabgp.announced == {DRAINING.prefix: DRAINING}, "nor by the dead-man"
    reconciler.set_desired(DesiredRoutes((VIP, IDENTITY), ()), 13.0)
    converse(reconciler, exabgp, 13.0)
    assert reconciler.snapshot().error is None
    reconciler.set_allowed(ALLOWED[1:], ALLOWED, 14.0)
    converse(reconciler, exabgp, 14.0)
    assert exabgp.announced == I, "a VIP that is no longer allowed is withdrawn"
    assert Reconciler(0.0).snapshot().error is None


def test_family_that_the_router_does_not_negotiate_is_an_error_and_not_advertised():
    exabgp = ExaBGPModel()
    exabgp.negotiated[PEER] = ("ipv4",)
    reconciler = started(exabgp)
    reconciler.set_desired(DesiredRoutes((VIP, VIP6), ()), 1.0)
    converse(reconciler, exabgp, 1.0)
    assert exabgp.announced.keys() == {VIP.prefix, VIP6.prefix}, "in the Adj-RIB-Out all the same"
    assert reconciler.snapshot().advertised == {VIP.prefix}
    assert reconciler.snapshot().error.startswith(f"neighbor {PEER} does not accept ipv6")


PREFIXES = st.sampled_from([f"10.99.0.{i}/32" for i in range(4)])
ROUTES = st.builds(Route.of, PREFIXES, st.just("10.0.0.11"), st.sampled_from([[], [[1, 2, 3]], [[1, 2, 4]]]))
ROUTE_SETS = st.lists(ROUTES, max_size=4, unique_by=lambda route: route.prefix)


@given(ROUTE_SETS, st.lists(ROUTE_SETS, min_size=1, max_size=5), st.data())
def test_the_last_desired_routes_are_reached_from_any_state_and_any_changes(before, route_sets, data):
    exabgp = ExaBGPModel(announced=before)
    reconciler = started(exabgp)
    pending: list[str] = []
    for desired in route_sets:
        reconciler.set_desired(DesiredRoutes(tuple(desired), ()), 1.0)
        for _ in range(data.draw(st.integers(0, 4))):
            for command in reconciler.commands():
                pending += exabgp.answer(command)
            if pending:
                reconciler.receive(pending.pop(0), 1.0)
    for line in pending:
        reconciler.receive(line, 1.0)
    converse(reconciler, exabgp, 1.0)
    assert exabgp.announced == {route.prefix: route for route in route_sets[-1]}
    assert reconciler.snapshot().advertised == exabgp.announced.keys()
    assert reconciler.snapshot().error is None
