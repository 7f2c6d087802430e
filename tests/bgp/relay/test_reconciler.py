# SPDX-License-Identifier: Apache-2.0
"""The relay's mind against a model of ExaBGP: what it is told, in which order, and when it is told nothing."""

import json
from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.relay.adj_rib_in import MAX_ROUTES, QUIET_S
from bgp.relay.diff import RouteChange, diff
from bgp.relay.protocol import MAX_LINE_BYTES, DesiredRoutes
from bgp.relay.reconciler import DEADMAN_S, HUNG_S, Reconciler
from bgp.route import Route

PEER, OTHER, INTERNAL = "10.0.0.1", "10.0.0.2", "10.0.0.3"
END = "10.0.5.11"
VIP = Route.of("10.99.0.1/32", "10.0.0.11")
VIP6 = Route.of("2001:db8::1/128", "2001:db8::b")
IDENTITY = Route.of("10.254.0.11/32", "10.0.0.11", [[65001, 1, 1]])
DRAINING = Route.of("10.254.0.11/32", "10.0.0.11", [[65001, 1, 2]])
LEARNED = Route.of("10.254.0.12/32", "10.0.0.12", [[65001, 1, 3]], [65000, 65001])


class ExaBGP:
    """Answers as ExaBGP does; what `refuses` names it answers with error, what `lies` names with done for nothing.

    `own_as` and `families` may differ by neighbor; a route of another family gets a `done` and goes nowhere.
    """

    def __init__(self, announced=(), learned=(), up=(PEER,), peers=(PEER,)):
        self.told = {peer: {route.prefix: route for route in announced} for peer in peers}
        self.learned = list(learned)
        self.up = set(up)
        self.own_as, self.families = dict.fromkeys(peers, 65001), dict.fromkeys(peers, ("ipv4", "ipv6"))
        self.negotiated = {}
        self.refuses, self.lies, self.heard = set(), set(), []

    @property
    def peers(self):
        return tuple(self.told)

    @property
    def announced(self):
        """What the first neighbor is told."""
        return self.told[self.peers[0]]

    def answers(self, command):
        self.heard.append(command)
        match command.split():
            case ["reset"]:
                return []
            case ["version"]:
                return ["exabgp 5.0.15", "done"]
            case ["show", "neighbor", "json"]:
                everyone = [
                    described(p, p in self.up, self.own_as[p], self.families[p], self.negotiated.get(p))
                    for p in self.told
                ]
                return [json.dumps(everyone), "done"]
            case ["show", "adj-rib", "in", "json"]:
                return [*(listed(p, route) for p in self.told for route in self.learned), "done"]
            case ["show", "adj-rib", "out", "json"]:
                return [*(listed(p, route) for p, told in self.told.items() for route in told.values()), "done"]
            case ["neighbor", peer, verb, "route", prefix, "next-hop", next_hop, *rest]:
                if command in self.refuses or peer not in self.told:
                    return ["error"]
                family = "ipv6" if ":" in prefix else "ipv4"
                if command not in self.lies and family in self.families[peer]:
                    self.told[peer].pop(prefix, None)
                    if verb == "announce":
                        self.told[peer][prefix] = self.route(prefix, next_hop, rest)
                return ["done"]
        raise AssertionError(command)

    @staticmethod
    def route(prefix, next_hop, words):
        said, words = {}, list(words)
        while words:
            name, value = words.pop(0), words.pop(0)
            if value == "[":
                value = words[: words.index("]")]
                del words[: len(value) + 1]
            said[name] = value
        numbers = {name: [list(map(int, t.split(":"))) for t in said.get(name, [])] for name in LISTS}
        as_path, med = [int(number) for number in said.get("as-path", [])], said.get("med")
        med = None if med is None else int(med)
        return Route.of(prefix, next_hop, numbers["large-community"], as_path, numbers["community"], med)


LISTS = ("large-community", "community")


def described(peer, up=True, own_as=65001, families=("ipv4", "ipv6"), negotiated=None):
    names = [f"{family} unicast" for family in families]
    common = [f"{family} unicast" for family in negotiated or families]
    return {
        "fsm": "ESTABLISHED" if up else "IDLE",
        "duration": 5,
        "local": {"address": END, "as": own_as, "families": dict.fromkeys(names, True)},
        "peer": {"address": peer, "as": 65000},
        "families": common if up else [],
    }


def listed(peer, route):
    attributes = {"large-community": [f"{a}:{b}:{c}" for a, b, c in route.large_communities]}
    attributes["community"] = [f"{a}:{b}" for a, b in route.communities]
    attributes["as-path"] = {"0": {"element": "as-sequence", "value": list(route.as_path)}}
    if route.med is not None:
        attributes["med"] = route.med
    return json.dumps(
        {
            "peer": {"address": peer},
            "route": {"nlri": {"prefix": route.prefix, "nexthop": route.next_hop}, "attributes": attributes},
        }
    )


def state(peer, value):
    neighbor = {"address": {"peer": peer}, "state": value}
    return json.dumps({"exabgp": "5.0.0", "type": "state", "neighbor": neighbor})


def update(peer, announced=(), withdrawn=()):
    content = {
        "attribute": {"large-community": [list(c) for route in announced for c in route.large_communities]},
        "announce": {"ipv4 unicast": {r.next_hop: [{"nlri": r.prefix}] for r in announced}},
        "withdraw": {"ipv4 unicast": [{"nlri": prefix} for prefix in withdrawn]},
    }
    neighbor = {"address": {"peer": peer}, "message": {"update": content}}
    return json.dumps({"exabgp": "5.0.0", "type": "update", "neighbor": neighbor})


def end_of_rib(peer, family):
    neighbor = {"address": {"peer": peer}, "message": {"eor": {"afi": family, "safi": "unicast"}}}
    return json.dumps({"exabgp": "5.0.0", "type": "update", "neighbor": neighbor})


def converse(session, exabgp, now):
    """Let both talk until neither has more to say; one command at a time, or it fails."""
    for _ in range(1000):
        commands = session.commands()
        if not commands:
            return
        assert len(commands) == 1 or commands == ["reset", "version"]
        for command in commands:
            for line in exabgp.answers(command):
                session.receive(line, now)
                if line not in ("done", "error"):
                    assert session.commands() == []
    raise AssertionError("it never ends")


def started(exabgp, now=0.0):
    session = Reconciler(now, ALLOWED)
    converse(session, exabgp, now)
    assert session.ready
    return session


def changes(exabgp):
    return [command for command in exabgp.heard if command.startswith("neighbor ")]


def learned(session, peer=PEER):
    return {p.address: p for p in session.snapshot().peers}[peer].routes


ALLOWED = [ip_network("10.99.0.0/16"), ip_network("10.254.0.11"), ip_network("2001:db8::/32")]
V, I = {VIP.prefix: VIP}, {IDENTITY.prefix: IDENTITY}  # noqa: E741


@pytest.mark.parametrize(
    ("announced", "wanted", "expected"),
    [
        ({PEER: {}}, {PEER: {}}, []),
        ({PEER: {}}, {PEER: V}, [RouteChange(PEER, VIP, True)]),
        ({}, {PEER: V}, [RouteChange(PEER, VIP, True)]),
        ({PEER: V}, {PEER: V}, []),
        ({PEER: V}, {PEER: {}}, [RouteChange(PEER, VIP, False)]),
        ({PEER: V}, {}, []),  # a neighbor of which nothing is known yet
        ({PEER: I}, {PEER: {DRAINING.prefix: DRAINING}}, [RouteChange(PEER, DRAINING, True)]),
        ({PEER: V}, {PEER: I}, [RouteChange(PEER, IDENTITY, True), RouteChange(PEER, VIP, False)]),
        ({PEER: V, OTHER: {}}, {PEER: V, OTHER: V}, [RouteChange(OTHER, VIP, True)]),
        (
            {PEER: {}, OTHER: V},
            {PEER: I, OTHER: {}},
            [RouteChange(PEER, IDENTITY, True), RouteChange(OTHER, VIP, False)],
        ),
    ],
)
def test_diff(announced, wanted, expected):
    assert diff(announced, wanted) == expected


def test_each_neighbor_is_told_its_families_and_its_own_as():
    exabgp = ExaBGP(peers=(PEER, OTHER, INTERNAL), up=(PEER, OTHER, INTERNAL))
    exabgp.families[OTHER] = ("ipv6",)
    exabgp.own_as |= {OTHER: 65009, INTERNAL: 65000}
    session = started(exabgp)
    vip6 = Route.of("2001:db8::1/128", "2001:db8::b", med=5, prepend=2, communities=[[65000, 1]])
    session.set_desired(DesiredRoutes((VIP, vip6), ()), 1.0)
    converse(session, exabgp, 1.0)
    plain = replace(vip6, prepend=0)
    assert exabgp.told == {
        PEER: V | {vip6.prefix: replace(plain, as_path=(65001, 65001, 65001))},
        OTHER: {vip6.prefix: replace(plain, as_path=(65009, 65009, 65009))},
        INTERNAL: V | {vip6.prefix: plain},  # towards its own AS a prepended path would look like a loop
    }
    assert session.snapshot().error is None
    session.set_desired(DesiredRoutes((replace(VIP, next_hop_self=True), vip6), ()), 1.5)
    converse(session, exabgp, 1.5)
    assert exabgp.told[PEER][VIP.prefix] == replace(VIP, next_hop=END), "the address by which it knows this node"
    session.set_desired(DesiredRoutes((VIP, vip6), ()), 1.6)
    converse(session, exabgp, 1.6)
    seen = len(changes(exabgp))
    session.set_desired(DesiredRoutes((VIP, replace(vip6, med=6)), ()), 2.0)
    converse(session, exabgp, 2.0)
    assert len(changes(exabgp)) == seen + 3, "and nothing else is said again"
    assert {told[vip6.prefix].med for told in exabgp.told.values()} == {6}


def test_neighbor_that_a_reload_added_or_changed_is_told_all_as_soon_as_it_is_up():
    exabgp = ExaBGP()
    session = started(exabgp)
    session.set_desired(DesiredRoutes((VIP,), ()), 1.0)
    converse(session, exabgp, 1.0)
    exabgp.told[OTHER] = {}
    exabgp.own_as[OTHER], exabgp.families[OTHER] = 65001, ("ipv4",)
    exabgp.up.add(OTHER)
    session.receive(state(OTHER, "up"), 2.0)
    session.tick(2.0)
    converse(session, exabgp, 2.0)
    assert exabgp.told == {PEER: V, OTHER: V}
    # With another AS it is another neighbor to ExaBGP: an empty adj-rib-out under an address that was known.
    exabgp.told[OTHER].clear()
    session.receive(state(OTHER, "down"), 3.0)
    session.receive(state(OTHER, "up"), 3.1)
    session.tick(3.1)
    converse(session, exabgp, 3.1)
    assert exabgp.told == {PEER: V, OTHER: V}


def test_neighbor_that_a_reload_removed_is_forgotten():
    exabgp = ExaBGP(peers=(PEER, OTHER), up=(PEER, OTHER), learned=[LEARNED])
    session = started(exabgp)
    session.set_desired(DesiredRoutes((VIP,), ()), 1.0)
    converse(session, exabgp, 1.0)
    del exabgp.told[OTHER]
    session.receive(state(OTHER, "down"), 2.0)
    session.tick(2.0)
    converse(session, exabgp, 2.0)
    assert [peer.address for peer in session.snapshot().peers] == [PEER, OTHER], "it may be down only"
    session.tick(3.1)
    converse(session, exabgp, 3.1)
    assert [peer.address for peer in session.snapshot().peers] == [PEER]
    session.set_desired(DesiredRoutes((IDENTITY,), ()), 4.0)
    converse(session, exabgp, 4.0)
    assert session.snapshot().error is None


def test_first_relay_announces_what_is_wished_and_verifies():
    exabgp = ExaBGP()
    session = started(exabgp)
    assert changes(exabgp) == []
    session.set_desired(DesiredRoutes((IDENTITY, VIP), (DRAINING,)), 1.0)
    converse(session, exabgp, 1.0)
    assert exabgp.announced == {VIP.prefix: VIP, IDENTITY.prefix: IDENTITY}
    assert exabgp.heard[-1] == "show adj-rib out json"
    assert session.snapshot().advertised == {VIP.prefix, IDENTITY.prefix}
    assert session.snapshot().error is None


def test_successor_of_a_killed_relay_touches_nothing_that_is_right():
    exabgp = ExaBGP(announced=[VIP, IDENTITY], learned=[LEARNED])
    session = started(exabgp)
    converse(session, exabgp, 9.0)
    session.set_desired(DesiredRoutes((VIP, IDENTITY), ()), 9.0)
    converse(session, exabgp, 9.0)
    assert changes(exabgp) == []
    assert learned(session) == (LEARNED,)
    assert session.snapshot().peers[0].eor
    assert session.snapshot().advertised == {VIP.prefix, IDENTITY.prefix}


def test_answers_to_a_killed_predecessor_are_not_taken_for_ours():
    session = Reconciler(0.0)
    assert session.commands() == ["reset", "version"]
    for line in ("done", "error", listed(PEER, VIP), "done"):
        session.receive(line, 0.0)
        assert session.commands() == []
    session.receive("exabgp 5.0.15", 0.0)
    session.receive("done", 0.0)
    assert session.commands() == ["show neighbor json"]


def test_deadman_withdraws_the_vip_and_leaves_the_identity_draining():
    exabgp = ExaBGP()
    session = started(exabgp)
    session.set_desired(DesiredRoutes((IDENTITY, VIP), (DRAINING,)), 5.0)
    converse(session, exabgp, 5.0)
    session.tick(5.0 + DEADMAN_S)
    converse(session, exabgp, 5.0 + DEADMAN_S)
    assert exabgp.announced.keys() == {VIP.prefix, IDENTITY.prefix}
    assert not session.snapshot().deadman
    session.tick(5.1 + DEADMAN_S)
    converse(session, exabgp, 5.1 + DEADMAN_S)
    assert exabgp.announced == {IDENTITY.prefix: DRAINING}
    assert session.snapshot().deadman
    session.set_desired(DesiredRoutes((IDENTITY, VIP), (DRAINING,)), 20.0)
    converse(session, exabgp, 20.0)
    assert exabgp.announced == {VIP.prefix: VIP, IDENTITY.prefix: IDENTITY}
    assert not session.snapshot().deadman


def test_successor_that_never_hears_an_agent_withdraws_everything_after_the_deadman_time():
    exabgp = ExaBGP(announced=[VIP, IDENTITY])
    session = started(exabgp)
    session.tick(DEADMAN_S)
    converse(session, exabgp, DEADMAN_S)
    assert exabgp.announced.keys() == {VIP.prefix, IDENTITY.prefix}
    session.tick(DEADMAN_S + 0.1)
    converse(session, exabgp, DEADMAN_S + 0.1)
    assert exabgp.announced == {}


def test_refused_command_is_an_error_and_tried_again_after_a_second():
    exabgp = ExaBGP()
    session = started(exabgp)
    exabgp.refuses.add(VIP.announce_command(PEER))
    session.set_desired(DesiredRoutes((VIP, IDENTITY), ()), 1.0)
    converse(session, exabgp, 1.0)
    assert changes(exabgp).count(VIP.announce_command(PEER)) == 1
    assert exabgp.announced == {IDENTITY.prefix: IDENTITY}, "one refusal does not hold up the others"
    assert "refused" in session.snapshot().error
    exabgp.refuses.clear()
    session.set_desired(DesiredRoutes((VIP, IDENTITY), ()), 1.9)
    converse(session, exabgp, 1.9)
    assert VIP.prefix not in exabgp.announced
    session.set_desired(DesiredRoutes((VIP, IDENTITY), ()), 2.1)
    converse(session, exabgp, 2.1)
    assert session.snapshot().advertised == {VIP.prefix, IDENTITY.prefix}
    assert session.snapshot().error is None


def test_done_without_effect_is_an_error():
    exabgp = ExaBGP(announced=[VIP])
    session = started(exabgp)
    exabgp.lies.add(VIP.withdraw_command(PEER))
    session.set_desired(DesiredRoutes((), ()), 1.0)
    converse(session, exabgp, 1.0)
    assert "adj-rib-out differs" in session.snapshot().error
    assert session.snapshot().advertised == {VIP.prefix}
    session.set_desired(DesiredRoutes((VIP,), ()), 1.5)
    converse(session, exabgp, 1.5)
    assert session.snapshot().error is None, "a fault goes with the wish that met it"


def test_silence_is_an_error_then_the_end():
    session = Reconciler(0.0)
    session.tick(6.0)
    assert session.snapshot().error == "ExaBGP does not answer 'version'"
    assert not session.hung(HUNG_S)
    assert session.hung(HUNG_S + 1)


def test_peer_down_flushes_its_routes_and_only_its():
    exabgp = ExaBGP(learned=[LEARNED], peers=(PEER, OTHER), up=(PEER, OTHER))
    session = started(exabgp)
    session.receive(state(PEER, "down"), 3.0)
    assert learned(session, PEER) == ()
    assert learned(session, OTHER) == (LEARNED,)
    revision = session.revision
    session.receive(state(PEER, "down"), 4.0)
    assert session.revision == revision, "a failed attempt to reconnect is no news"
    assert session.snapshot().peers[0].since == 3.0
    session.receive(state(PEER, "up"), 5.0)
    session.receive(update(PEER, [LEARNED]), 5.1)
    peer = session.snapshot().peers[0]
    assert (peer.up, peer.since, peer.eor, len(peer.routes)) == (True, 5.0, False, 1)


def test_end_of_rib_is_said_or_inferred_from_silence_or_time():
    session = started(ExaBGP(up=()))
    session.receive(state(PEER, "up"), 1.0)
    session.receive(end_of_rib(PEER, "ipv6"), 1.1)
    assert not session.snapshot().peers[0].eor, "what is waited for are identities"
    session.receive(end_of_rib(PEER, "ipv4"), 1.1)
    assert session.snapshot().peers[0].eor
    session.receive(state(PEER, "up"), 10.0)
    session.receive(update(PEER, [LEARNED]), 11.0)
    session.tick(11.0 + QUIET_S - 0.1)
    assert not session.snapshot().peers[0].eor
    session.tick(11.0 + QUIET_S)
    assert session.snapshot().peers[0].eor
    session.receive(state(PEER, "up"), 20.0)
    for tenth in range(101):
        assert not session.snapshot().peers[0].eor
        session.receive(update(PEER, [LEARNED]), 20.0 + tenth / 10)
        session.tick(20.0 + tenth / 10)
    assert session.snapshot().peers[0].eor


def test_news_during_the_list_is_newer_than_the_list():
    """The list is taken when asked for; what changes while it is read comes between its lines."""
    changed = Route.of(LEARNED.prefix, "10.0.0.13")
    gone, back = Route.of("10.254.0.13/32", "10.0.0.12"), Route.of("10.254.0.14/32", "10.0.0.12")
    session = Reconciler(0.0)
    exabgp = ExaBGP()
    while (commands := session.commands()) != ["show adj-rib in json"]:
        for command in commands:
            for line in exabgp.answers(command):
                session.receive(line, 0.0)
    session.receive(update(PEER, [changed], [gone.prefix]), 0.0)
    for route in (LEARNED, gone, back):
        session.receive(listed(PEER, route), 0.0)
    session.receive("done", 0.0)
    assert set(learned(session)) == {changed, back}


def test_session_lost_during_the_list_leaves_nothing():
    session = Reconciler(0.0)
    exabgp = ExaBGP()
    while (commands := session.commands()) != ["show adj-rib in json"]:
        for command in commands:
            for line in exabgp.answers(command):
                session.receive(line, 0.0)
    session.receive(listed(PEER, LEARNED), 0.0)
    session.receive(state(PEER, "down"), 0.0)
    session.receive("done", 0.0)
    assert learned(session) == ()


def test_memory_is_bounded_and_what_was_left_out_is_fetched_when_there_is_room():
    crowd = [
        Route.of(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}/32", "10.0.0.12", [[1, 1, 1]] * 3)
        for i in range(MAX_ROUTES + 5)
    ]
    exabgp = ExaBGP()
    session = started(exabgp)
    for route in crowd:
        session.receive(update(PEER, [route]), 1.0)
    session.tick(1.0)
    assert len(learned(session)) == MAX_ROUTES
    assert "are ignored" in session.snapshot().error
    assert len(session.snapshot().encode()) < MAX_LINE_BYTES
    exabgp.learned = crowd[2000:]
    for route in crowd[:2000]:
        session.receive(update(PEER, [], [route.prefix]), 2.0)
    session.tick(2.0)
    converse(session, exabgp, 2.0)
    assert set(learned(session)) == set(crowd[2000:])
    assert session.snapshot().error is None


def test_adj_rib_out_is_looked_at_every_half_minute_and_mended():
    exabgp = ExaBGP()
    session = started(exabgp)
    session.set_desired(DesiredRoutes((VIP,), (VIP,)), 1.0)
    converse(session, exabgp, 1.0)
    exabgp.announced.clear()
    session.tick(32.0)
    converse(session, exabgp, 32.0)
    assert exabgp.announced == {VIP.prefix: VIP}


def test_nothing_outside_the_allowed_prefixes_is_announced_whatever_the_agent_wishes():
    exabgp = ExaBGP()
    session = started(exabgp)
    others = [Route.of(prefix, "10.0.0.11") for prefix in ("10.99.0.0/31", "8.8.8.8/32", "10.254.0.12/32", "0.0.0.0/0")]
    session.set_desired(DesiredRoutes((VIP, IDENTITY, *others), (DRAINING, *others)), 1.0)
    converse(session, exabgp, 1.0)
    assert exabgp.announced == V | I
    assert "10.99.0.0/31, 8.8.8.8/32, 10.254.0.12/32" in session.snapshot().error
    assert "bgp.allow" in session.snapshot().error
    session.tick(12.0)
    converse(session, exabgp, 12.0)
    assert exabgp.announced == {DRAINING.prefix: DRAINING}, "nor by the dead-man"
    session.set_desired(DesiredRoutes((VIP, IDENTITY), ()), 13.0)
    converse(session, exabgp, 13.0)
    assert session.snapshot().error is None
    session.set_allowed(ALLOWED[1:], 14.0)
    converse(session, exabgp, 14.0)
    assert exabgp.announced == I, "a VIP that is no longer allowed is withdrawn"
    assert Reconciler(0.0).snapshot().error is None


def test_a_family_that_the_router_does_not_take_is_an_error_and_not_announced():
    exabgp = ExaBGP()
    exabgp.negotiated[PEER] = ("ipv4",)
    session = started(exabgp)
    session.set_desired(DesiredRoutes((VIP, VIP6), ()), 1.0)
    converse(session, exabgp, 1.0)
    assert exabgp.announced.keys() == {VIP.prefix, VIP6.prefix}, "it is there for when the router takes it"
    assert session.snapshot().advertised == {VIP.prefix}
    assert session.snapshot().error.startswith(f"neighbor {PEER} does not accept ipv6")


PREFIXES = st.sampled_from([f"10.99.0.{i}/32" for i in range(4)])
ROUTES = st.builds(Route.of, PREFIXES, st.just("10.0.0.11"), st.sampled_from([[], [[1, 2, 3]], [[1, 2, 4]]]))
WISHES = st.lists(ROUTES, max_size=4, unique_by=lambda route: route.prefix)


@given(WISHES, st.lists(WISHES, min_size=1, max_size=5), st.data())
def test_whatever_stood_before_and_whenever_wishes_change_the_last_one_is_reached(before, wishes, data):
    exabgp = ExaBGP(announced=before)
    session = started(exabgp)
    pending: list[str] = []
    for wish in wishes:
        session.set_desired(DesiredRoutes(tuple(wish), ()), 1.0)
        for _ in range(data.draw(st.integers(0, 4))):
            for command in session.commands():
                pending += exabgp.answers(command)
            if pending:
                session.receive(pending.pop(0), 1.0)
    for line in pending:
        session.receive(line, 1.0)
    converse(session, exabgp, 1.0)
    assert exabgp.announced == {route.prefix: route for route in wishes[-1]}
    assert session.snapshot().advertised == exabgp.announced.keys()
    assert session.snapshot().error is None


def test_a_silent_agent_s_vips_stay_beside_its_fallback_when_too_few_others_announce_them():
    fallback = Route.of(IDENTITY.prefix, IDENTITY.next_hop, [[65001, 1, 2]])
    wish = DesiredRoutes((IDENTITY, VIP), (fallback,), (IDENTITY.prefix, "10.254.0.12/32"))
    exabgp = ExaBGP()
    session = started(exabgp)
    session.set_desired(wish, 500.0)
    converse(session, exabgp, 500.0)
    silent = 500.0 + DEADMAN_S + 1
    session.tick(silent)
    converse(session, exabgp, silent)
    assert exabgp.announced == {VIP.prefix: VIP, IDENTITY.prefix: fallback}
    assert (session.snapshot().deadman, session.snapshot().held) == (True, True)
    # The agent is back: nothing but the identity has changed meanwhile.
    session.set_desired(wish, silent + 1)
    converse(session, exabgp, silent + 1)
    assert exabgp.announced == {VIP.prefix: VIP, IDENTITY.prefix: IDENTITY}
    assert not session.snapshot().held


def test_without_announcers_a_silent_agent_s_vips_go():
    exabgp = ExaBGP()
    session = started(exabgp)
    session.set_desired(DesiredRoutes((IDENTITY, VIP), (DRAINING,)), 500.0)
    converse(session, exabgp, 500.0)
    session.tick(500.0 + DEADMAN_S + 1)
    converse(session, exabgp, 500.0 + DEADMAN_S + 1)
    assert exabgp.announced == {IDENTITY.prefix: DRAINING}
    assert (session.snapshot().deadman, session.snapshot().held) == (True, False)
