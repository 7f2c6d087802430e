# SPDX-License-Identifier: Apache-2.0
"""The rules of the view, one by one. Time is an argument; nothing sleeps."""

from dataclasses import replace
from ipaddress import IPv4Address

from support.reports import DOWN, FIVE, A, B, identity, states, up

from agent.membership.peer_table import REFRESH_S
from agent.membership.view import END_OF_RIB_TIMEOUT_S, LOST_KEPT_S, View
from agent.model import Share, State


def test_withdrawn_member_is_lost_and_forgotten_after_ten_minutes() -> None:
    view = View()
    view.observe({"r": up(identity(A), identity(B))}, 0)
    view.observe({"r": up(identity(A))}, 50)
    assert states(view) == {A: State.UP, B: State.LOST}
    view.advance(50 + LOST_KEPT_S - 1)
    assert states(view) == {A: State.UP, B: State.LOST}
    view.advance(50 + LOST_KEPT_S)
    assert states(view) == {A: State.UP}


def test_lost_member_takes_no_new_flows_but_keeps_its_nominal_weight() -> None:
    view = View()
    view.observe({"r": up(identity(A))}, 0)
    view.observe({"r": up()}, 1)
    assert view.members[0].share(5) == Share(100, 0, State.LOST)


def test_lost_member_that_returns_is_up() -> None:
    view = View()
    view.observe({"r": up(identity(A))}, 0)
    view.observe({"r": up()}, 1)
    view.observe({"r": up(identity(A))}, 2)
    assert states(view) == {A: State.UP}
    assert view.members[0].since == 2


def test_member_that_leaves_is_removed_at_once_and_forgotten_with_its_identity() -> None:
    view = View()
    view.observe({"r": up(identity(A), identity(B))}, 0)
    view.observe({"r": up(identity(A, State.LEFT), identity(B))}, 1)
    assert states(view) == {A: State.LEFT, B: State.UP}
    assert view.members[0].share(5) is None
    view.observe({"r": up(identity(B))}, 2)
    assert states(view) == {B: State.UP}


def test_peer_that_goes_down_removes_no_member() -> None:
    view = View()
    view.observe({"r": up(identity(A), identity(B))}, 0)
    for now in (1, 1000, 100_000):
        view.observe({"r": DOWN}, now)
        assert states(view) == {A: State.UP, B: State.UP}


def test_after_a_peer_returns_an_absent_member_is_unknown_for_a_time_then_lost() -> None:
    view = View()
    view.observe({"r": up(identity(A), identity(B))}, 0)
    view.observe({"r": DOWN}, 500)
    view.observe({"r": up(identity(A))}, 1000)
    assert states(view) == {A: State.UP, B: State.UP}
    view.advance(1000 + REFRESH_S)
    assert states(view) == {A: State.UP, B: State.LOST}


def test_unnoticed_session_reset_makes_an_absent_member_unknown_too() -> None:
    view = View()
    view.observe({"r": up(identity(A), identity(B), since=1)}, 10)
    view.observe({"r": up(since=500)}, 500)
    assert states(view) == {A: State.UP, B: State.UP}
    view.observe({"r": up(identity(A), since=500)}, 501)
    view.advance(500 + REFRESH_S)
    assert states(view) == {A: State.UP, B: State.LOST}


def test_member_withdrawn_in_the_session_that_advertised_it_is_lost_at_once() -> None:
    view = View()
    view.observe({"r": up(identity(A))}, 0)
    view.observe({"r": DOWN}, 1)
    view.observe({"r": up(identity(A))}, 2)
    view.observe({"r": up()}, 3)
    assert states(view) == {A: State.LOST}


def test_member_is_up_if_any_peer_advertises_it() -> None:
    view = View()
    view.observe({"r": up(identity(A)), "s": up(identity(A))}, 0)
    view.observe({"r": up(), "s": up(identity(A))}, 1)
    assert states(view) == {A: State.UP}
    view.observe({"r": up(), "s": up()}, 2)
    assert states(view) == {A: State.LOST}


def test_stale_advertisement_of_a_disconnected_router_does_not_keep_a_dead_server_up() -> None:
    view = View()
    view.observe({"r": up(identity(A)), "s": up(identity(A))}, 0)
    view.observe({"r": DOWN, "s": up(identity(A))}, 1)
    view.observe({"r": DOWN, "s": up()}, 2)
    assert states(view) == {A: State.LOST}
    # Nor does a reset of the session that withdrew it make the stale advertisement valid again.
    view.observe({"r": DOWN, "s": up(since=3)}, 3)
    assert states(view) == {A: State.LOST}
    view.observe({"r": up(identity(A), since=4), "s": up(since=3)}, 4)
    assert states(view) == {A: State.UP}


def test_stale_advertisement_does_not_keep_a_server_up_that_died_during_a_session_reset() -> None:
    view = View()
    view.observe({"r": up(identity(A), identity(B)), "s": up(identity(A), identity(B))}, 0)
    view.observe({"r": DOWN, "s": DOWN}, 1)
    view.observe({"r": DOWN, "s": up(identity(B), since=2)}, 2)
    view.advance(2 + REFRESH_S)
    assert states(view) == {A: State.LOST, B: State.UP}


def test_member_known_only_from_a_disconnected_router_stays_while_it_replies() -> None:
    view = View()
    view.observe({"r": up(identity(A, version=8)), "s": up(identity(B))}, 0)
    view.observe({"r": DOWN, "s": up(identity(B))}, 1)
    view.advance(REFRESH_S - 1)
    assert view.take_due_probes(REFRESH_S - 1) == []
    for second in range(int(REFRESH_S), int(REFRESH_S) + 900):
        view.advance(second)
        assert states(view) == {A: State.UP, B: State.UP}
        for address in view.take_due_probes(second):
            view.receive_reply(address, 8, second)
    view.advance(2000)
    assert states(view) == {A: State.LOST, B: State.UP}
    view.advance(2000 + LOST_KEPT_S)
    view.advance(9000)
    assert states(view) == {B: State.UP}, "forgotten, whatever the disconnected router had advertised"
    view.observe({"r": up(identity(A, version=8), since=9000), "s": up(identity(B))}, 9000)
    assert states(view) == {A: State.UP, B: State.UP}


def test_no_member_is_probed_while_every_router_is_down() -> None:
    view = View()
    view.observe({"r": up(identity(A)), "s": up(identity(B))}, 0)
    view.observe({"r": DOWN, "s": DOWN}, 1)
    view.advance(10_000)
    assert states(view) == {A: State.UP, B: State.UP}
    assert view.take_due_probes(10_000) == []


def test_live_advertisement_replaces_a_stale_one() -> None:
    view = View()
    view.observe({"r": up(identity(A)), "s": up(identity(A))}, 0)
    view.observe({"r": up(identity(A, State.DRAINING)), "s": DOWN}, 1)
    assert states(view) == {A: State.DRAINING}
    view.observe({"r": DOWN, "s": up(identity(A))}, 2)
    assert states(view) == {A: State.UP}


def test_weight_change_does_not_change_since() -> None:
    view = View()
    view.observe({"r": up(identity(A))}, 0)
    view.observe({"r": up(identity(A, weight=0))}, 5)
    assert view.members[0].shares[5].effective == 0
    assert view.members[0].since == 0


def test_saved_members_stay_until_the_peers_had_time_to_advertise_them() -> None:
    before = View()
    before.observe({"r": up(identity(A), identity(B))}, 0)
    view = View(before.members)
    view.observe({"r": DOWN}, 100)
    assert states(view) == {A: State.UP, B: State.UP}
    view.observe({"r": up(identity(A))}, 101)
    assert states(view) == {A: State.UP, B: State.UP}
    view.advance(100 + REFRESH_S)
    assert states(view) == {A: State.UP, B: State.LOST}


def test_saved_member_that_is_advertised_and_withdrawn_is_lost_at_once() -> None:
    before = View()
    before.observe({"r": up(identity(A))}, 0)
    view = View(before.members)
    view.observe({"r": up(identity(A))}, 100)
    view.observe({"r": up()}, 101)
    assert states(view) == {A: State.LOST}


def test_saved_lost_member_stays_lost_and_is_forgotten_in_time() -> None:
    before = View()
    before.observe({"r": up(identity(A))}, 0)
    before.observe({"r": up()}, 10)
    view = View(before.members)
    view.observe({"r": up()}, 20)
    assert states(view) == {A: State.LOST}
    view.advance(10 + LOST_KEPT_S)
    assert states(view) == {}


def test_peer_that_is_no_longer_configured_is_forgotten() -> None:
    view = View()
    view.observe({"r": up(identity(A)), "s": up(identity(B))}, 0)
    view.observe({"r": up(identity(A))}, 1)
    assert states(view) == {A: State.UP, B: State.LOST}


# The first table


def test_first_table_waits_for_an_end_of_rib() -> None:
    view = View()
    assert not view.is_complete(0)
    view.observe({"r": DOWN, "s": up()}, 10)
    assert not view.is_complete(10)
    view.observe({"r": DOWN, "s": replace(up(identity(A)), eor=True)}, 11)
    assert view.is_complete(11)
    view.observe({"r": DOWN, "s": DOWN}, 12)
    assert view.is_complete(12), "once complete, it stays complete"


def test_first_table_waits_for_an_end_of_rib_no_longer_than_its_timeout() -> None:
    view = View()
    view.observe({"r": DOWN}, 10)
    assert not view.is_complete(10 + END_OF_RIB_TIMEOUT_S - 0.1)
    assert view.is_complete(10 + END_OF_RIB_TIMEOUT_S)


# The last change


def last_change(view: View, address: IPv4Address = A) -> tuple[float, str]:
    member = next(member for member in view.members if member.address == address)
    return max((member.since, member.why), (member.changed, member.change))


def test_last_change_has_its_time_and_reason() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 10)
    assert last_change(view) == (10, "identity received")
    view.observe({"r": up(identity(A, weight=0, version=10), *FIVE[1:])}, 20)
    assert last_change(view) == (20, "its effective weight decreased")
    view.observe({"r": up(identity(A, State.DRAINING, version=12), *FIVE[1:])}, 30)
    assert last_change(view) == (30, "its state changed to draining")
    view.observe({"r": up()}, 40)
    assert last_change(view) == (40, "no router advertises it; probing it directly")
    view.receive_reply(A, 12, 41)
    assert last_change(view) == (41, "no router advertises it, but it replies to probes")
    view.receive_reply(A, 12, 42)
    assert last_change(view)[0] == 41
    view.observe({"r": up(identity(A, State.DRAINING, version=12), *FIVE[1:])}, 43)
    assert last_change(view) == (43, "identity received again")
    view.observe({"r": up(*FIVE[1:])}, 50)
    assert last_change(view) == (50, "identity withdrawn")
