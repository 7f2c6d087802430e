# SPDX-License-Identifier: Apache-2.0
"""The rules of the view, one by one. Time is an argument; nothing sleeps."""

from ipaddress import IPv4Address

from agent.members import LOST_KEPT_S, REFRESH_S, PeerReport, Told, View
from agent.model import Share, State

A, B = IPv4Address("10.0.0.11"), IPv4Address("10.0.0.12")
DOWN = PeerReport(up=False, told={})


def told(address: IPv4Address, state: State = State.UP, weight: int = 100) -> Told:
    return Told(address, 1, {5: Share(100, weight if state is State.UP else 0, state)})


def up(*identities: Told, since: float = 0.0) -> PeerReport:
    return PeerReport(up=True, told={identity.address: identity for identity in identities}, since=since)


def states(view: View) -> dict[IPv4Address, State]:
    return {member.address: member.state for member in view.members}


def test_a_withdrawn_identity_is_lost_not_gone_and_forgotten_after_ten_minutes() -> None:
    view = View()
    view.observe({"r": up(told(A), told(B))}, 0)
    view.observe({"r": up(told(A))}, 50)
    assert states(view) == {A: State.UP, B: State.LOST}
    view.advance(50 + LOST_KEPT_S - 1)
    assert states(view) == {A: State.UP, B: State.LOST}
    view.advance(50 + LOST_KEPT_S)
    assert states(view) == {A: State.UP}


def test_a_lost_member_takes_no_new_flows_but_keeps_its_nominal_weight() -> None:
    view = View()
    view.observe({"r": up(told(A))}, 0)
    view.observe({"r": up()}, 1)
    assert view.members[0].share(5) == Share(100, 0, State.LOST)


def test_a_lost_member_that_comes_back_is_up() -> None:
    view = View()
    view.observe({"r": up(told(A))}, 0)
    view.observe({"r": up()}, 1)
    view.observe({"r": up(told(A))}, 2)
    assert states(view) == {A: State.UP}
    assert view.members[0].since == 2


def test_left_removes_from_every_chain_at_once_and_for_good_with_the_identity() -> None:
    view = View()
    view.observe({"r": up(told(A), told(B))}, 0)
    view.observe({"r": up(told(A, State.LEFT), told(B))}, 1)
    assert states(view) == {A: State.LEFT, B: State.UP}
    assert view.members[0].share(5) is None
    view.observe({"r": up(told(B))}, 2)
    assert states(view) == {B: State.UP}


def test_a_peer_down_takes_nothing_away() -> None:
    view = View()
    view.observe({"r": up(told(A), told(B))}, 0)
    for now in (1, 1000, 100_000):
        view.observe({"r": DOWN}, now)
        assert states(view) == {A: State.UP, B: State.UP}


def test_after_a_peer_is_back_absence_is_unknown_for_a_time_then_lost() -> None:
    view = View()
    view.observe({"r": up(told(A), told(B))}, 0)
    view.observe({"r": DOWN}, 500)
    view.observe({"r": up(told(A))}, 1000)
    assert states(view) == {A: State.UP, B: State.UP}
    view.advance(1000 + REFRESH_S)
    assert states(view) == {A: State.UP, B: State.LOST}


def test_a_session_reset_that_nobody_saw_down_makes_absence_unknown_too() -> None:
    view = View()
    view.observe({"r": up(told(A), told(B), since=1)}, 10)
    view.observe({"r": up(since=500)}, 500)
    assert states(view) == {A: State.UP, B: State.UP}
    view.observe({"r": up(told(A), since=500)}, 501)
    view.advance(500 + REFRESH_S)
    assert states(view) == {A: State.UP, B: State.LOST}


def test_what_a_peer_tells_and_then_withdraws_in_one_session_is_lost_at_once() -> None:
    view = View()
    view.observe({"r": up(told(A))}, 0)
    view.observe({"r": DOWN}, 1)
    view.observe({"r": up(told(A))}, 2)
    view.observe({"r": up()}, 3)
    assert states(view) == {A: State.LOST}


def test_a_member_is_up_if_any_peer_shows_it() -> None:
    view = View()
    view.observe({"r": up(told(A)), "s": up(told(A))}, 0)
    view.observe({"r": up(), "s": up(told(A))}, 1)
    assert states(view) == {A: State.UP}
    view.observe({"r": up(), "s": up()}, 2)
    assert states(view) == {A: State.LOST}


def test_the_old_word_of_a_router_that_is_away_does_not_keep_a_dead_server_up() -> None:
    view = View()
    view.observe({"r": up(told(A)), "s": up(told(A))}, 0)
    view.observe({"r": DOWN, "s": up(told(A))}, 1)
    view.observe({"r": DOWN, "s": up()}, 2)
    assert states(view) == {A: State.LOST}
    # Nor does a reset of the session that withdrew it make the old word count again.
    view.observe({"r": DOWN, "s": up(since=3)}, 3)
    assert states(view) == {A: State.LOST}
    view.observe({"r": up(told(A), since=4), "s": up(since=3)}, 4)
    assert states(view) == {A: State.UP}


def test_the_word_of_a_live_session_counts_more_than_an_old_one() -> None:
    view = View()
    view.observe({"r": up(told(A)), "s": up(told(A))}, 0)
    view.observe({"r": up(told(A, State.DRAINING)), "s": DOWN}, 1)
    assert states(view) == {A: State.DRAINING}
    view.observe({"r": DOWN, "s": up(told(A))}, 2)
    assert states(view) == {A: State.UP}


def test_changes_of_weight_do_not_count_as_coming_or_going() -> None:
    view = View()
    view.observe({"r": up(told(A))}, 0)
    view.observe({"r": up(told(A, weight=0))}, 5)
    assert view.members[0].shares[5].effective == 0
    assert view.members[0].since == 0


def test_a_remembered_view_stands_until_the_peers_have_had_their_time() -> None:
    before = View()
    before.observe({"r": up(told(A), told(B))}, 0)
    view = View(before.members)
    view.observe({"r": DOWN}, 100)
    assert states(view) == {A: State.UP, B: State.UP}
    view.observe({"r": up(told(A))}, 101)
    assert states(view) == {A: State.UP, B: State.UP}
    view.advance(100 + REFRESH_S)
    assert states(view) == {A: State.UP, B: State.LOST}


def test_a_remembered_member_that_is_told_and_withdrawn_is_lost_at_once() -> None:
    before = View()
    before.observe({"r": up(told(A))}, 0)
    view = View(before.members)
    view.observe({"r": up(told(A))}, 100)
    view.observe({"r": up()}, 101)
    assert states(view) == {A: State.LOST}


def test_a_remembered_lost_member_stays_lost_and_is_forgotten_in_time() -> None:
    before = View()
    before.observe({"r": up(told(A))}, 0)
    before.observe({"r": up()}, 10)
    view = View(before.members)
    view.observe({"r": up()}, 20)
    assert states(view) == {A: State.LOST}
    view.advance(10 + LOST_KEPT_S)
    assert states(view) == {}


def test_a_peer_that_is_no_longer_configured_is_forgotten() -> None:
    view = View()
    view.observe({"r": up(told(A)), "s": up(told(B))}, 0)
    view.observe({"r": up(told(A))}, 1)
    assert states(view) == {A: State.UP, B: State.LOST}
