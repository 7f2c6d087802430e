# SPDX-License-Identifier: Apache-2.0
"""The rules of the view, one by one. Time is an argument; nothing sleeps."""

from dataclasses import replace
from ipaddress import IPv4Address

from agent.membership.flap_damping import HALF_LIFE_S
from agent.membership.peer_table import REFRESH_S, Advertisement, PeerReport
from agent.membership.view import HEARING_TIMEOUT_S, LOST_KEPT_S, MASS_WINDOW_S, PROBE_LOST_EVERY_S, PROBE_WAIT_S, View
from agent.model import Share, State

A, B, C, D, E = (IPv4Address(f"10.0.0.{number}") for number in range(11, 16))
DOWN = PeerReport(up=False, advertisements={})


def told(address: IPv4Address, state: State = State.UP, weight: int = 100, version: int = 0) -> Advertisement:
    return Advertisement(address, 1, {5: Share(100, weight if state is State.UP else 0, state)}, version=version)


def up(*identities: Advertisement, since: float = 0.0) -> PeerReport:
    return PeerReport(up=True, advertisements={identity.address: identity for identity in identities}, since=since)


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


def test_nor_does_it_when_the_death_fell_into_a_reset_of_the_live_session() -> None:
    view = View()
    view.observe({"r": up(told(A), told(B)), "s": up(told(A), told(B))}, 0)
    view.observe({"r": DOWN, "s": DOWN}, 1)
    view.observe({"r": DOWN, "s": up(told(B), since=2)}, 2)
    view.advance(2 + REFRESH_S)
    assert states(view) == {A: State.LOST, B: State.UP}


def test_who_only_the_router_that_is_away_ever_told_of_stands_while_it_answers() -> None:
    view = View()
    view.observe({"r": up(told(A, version=8)), "s": up(told(B))}, 0)
    view.observe({"r": DOWN, "s": up(told(B))}, 1)
    view.advance(REFRESH_S - 1)
    assert view.wanted_probes(REFRESH_S - 1) == []
    for second in range(int(REFRESH_S), int(REFRESH_S) + 900):
        view.advance(second)
        assert states(view) == {A: State.UP, B: State.UP}
        for address in view.wanted_probes(second):
            view.answered(address, 8, second)
    view.advance(2000)
    assert states(view) == {A: State.LOST, B: State.UP}
    view.advance(2000 + LOST_KEPT_S)
    view.advance(9000)
    assert states(view) == {B: State.UP}, "forgotten, whatever the router that is away had said"
    view.observe({"r": up(told(A, version=8), since=9000), "s": up(told(B))}, 9000)
    assert states(view) == {A: State.UP, B: State.UP}


def test_while_every_router_is_away_nobody_is_asked() -> None:
    view = View()
    view.observe({"r": up(told(A)), "s": up(told(B))}, 0)
    view.observe({"r": DOWN, "s": DOWN}, 1)
    view.advance(10_000)
    assert states(view) == {A: State.UP, B: State.UP}
    assert view.wanted_probes(10_000) == []


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


# Which word counts


def weight_of(view: View, address: IPv4Address = A) -> int:
    return next(member.shares[5].effective for member in view.members if member.address == address)


def test_of_two_live_peers_the_higher_version_is_believed_whatever_the_order() -> None:
    old, new = told(A, weight=10, version=4), told(A, weight=90, version=6)
    for first, second in ((old, new), (new, old)):
        view = View()
        view.observe({"r": up(first), "s": up(second)}, 0)
        assert weight_of(view) == 90
        view.observe({"s": up(second), "r": up(first)}, 1)
        assert weight_of(view) == 90


def test_a_lower_version_is_not_believed_while_another_live_peer_tells_the_higher() -> None:
    view = View()
    view.observe({"r": up(told(A, weight=90, version=6)), "s": up(told(A, weight=90, version=6))}, 0)
    view.observe({"r": up(told(A, weight=90, version=6)), "s": up(told(A, weight=10, version=4))}, 1)
    assert weight_of(view) == 90


def test_a_lower_version_after_a_reinstall_is_believed_once_nobody_tells_the_higher() -> None:
    high, low = told(A, weight=90, version=6), told(A, weight=10, version=4)
    view = View()
    view.observe({"r": up(high), "s": up(high)}, 0)
    view.observe({"r": up(), "s": up(high)}, 1)
    view.observe({"r": up(low), "s": up(high)}, 2)
    assert weight_of(view) == 90
    view.observe({"r": up(low), "s": up()}, 3)
    assert (weight_of(view), states(view)) == (10, {A: State.UP})


def test_the_old_word_of_a_peer_that_is_down_is_corrected_by_a_live_one_even_with_a_lower_version() -> None:
    view = View()
    view.observe({"r": up(told(A, weight=90, version=6)), "s": up()}, 0)
    view.observe({"r": DOWN, "s": up(told(A, weight=10, version=4))}, 1)
    assert weight_of(view) == 10
    view.observe({"r": DOWN, "s": DOWN}, 2)
    assert weight_of(view) == 10, "the word of r is older than that of s, whatever its version"


def test_two_contents_under_one_version_are_told_apart_alike_everywhere() -> None:
    one, other = told(A, weight=10, version=4), told(A, weight=90, version=4)
    views = [View(), View()]
    views[0].observe({"r": up(one), "s": up(other)}, 0)
    views[1].observe({"r": up(other), "s": up(one)}, 0)
    assert weight_of(views[0]) == weight_of(views[1])


# The first table


def test_the_first_table_waits_for_an_end_of_rib() -> None:
    view = View()
    assert not view.complete(0)
    view.observe({"r": DOWN, "s": up()}, 10)
    assert not view.complete(10)
    view.observe({"r": DOWN, "s": replace(up(told(A)), eor=True)}, 11)
    assert view.complete(11)
    view.observe({"r": DOWN, "s": DOWN}, 12)
    assert view.complete(12), "once begun, it goes on with what it has"


def test_the_first_table_waits_for_an_end_of_rib_no_longer_than_its_timeout() -> None:
    view = View()
    view.observe({"r": DOWN}, 10)
    assert not view.complete(10 + HEARING_TIMEOUT_S - 0.1)
    assert view.complete(10 + HEARING_TIMEOUT_S)


# Mass vanishing

FIVE = tuple(told(address, version=8) for address in (A, B, C, D, E))
SIX_NODES = dict.fromkeys((A, B, C, D, E), State.UP)


def test_a_third_of_the_nodes_may_be_lost_without_being_asked() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 0)
    view.observe({"r": up(*FIVE[2:])}, 100)
    assert states(view) == SIX_NODES | {A: State.LOST, B: State.LOST}
    assert view.wanted_probes(100) == []


def test_one_of_two_nodes_is_lost_without_being_asked() -> None:
    view = View()
    view.observe({"r": up(told(A))}, 0)
    view.observe({"r": up()}, 100)
    assert states(view) == {A: State.LOST}
    assert view.wanted_probes(100) == []


def test_when_more_than_a_third_vanish_those_that_answer_a_direct_probe_keep_their_place() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 0)
    view.observe({"r": up(*FIVE[3:])}, 100)
    assert states(view) == SIX_NODES
    assert view.wanted_probes(100) == [A, B, C]
    assert view.wanted_probes(100.1) == [], "each once"
    for address in (A, B):
        view.answered(address, 8, 100.2)
    for tenth in range(1002, 1400):
        view.advance(tenth / 10)
        for address in view.wanted_probes(tenth / 10):
            if address in (A, B):
                view.answered(address, 8, tenth / 10)
    assert states(view) == SIX_NODES | {C: State.LOST}
    # One that stops answering is lost then.
    view.answered(A, 8, 141)
    view.advance(140 + PROBE_WAIT_S)
    assert states(view) == SIX_NODES | {B: State.LOST, C: State.LOST}


def test_without_an_answer_those_that_vanished_are_lost() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 0)
    view.observe({"r": up(*FIVE[3:])}, 100)
    view.advance(100 + PROBE_WAIT_S - 0.1)
    assert states(view) == SIX_NODES
    view.advance(100 + PROBE_WAIT_S)
    assert states(view) == SIX_NODES | dict.fromkeys((A, B, C), State.LOST)
    # They are asked on, more rarely; one that was only busy is taken back, and forgotten ones are not asked.
    view.wanted_probes(102)
    assert view.wanted_probes(102 + PROBE_LOST_EVERY_S) == [A, B, C]
    view.answered(B, 8, 108)
    assert states(view) == SIX_NODES | dict.fromkeys((A, C), State.LOST)
    view.advance(800)
    assert states(view) == dict.fromkeys((B, D, E), State.UP) | {B: State.LOST}
    assert view.wanted_probes(800) == [B]


def test_an_answer_under_another_version_does_not_keep_the_place() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 0)
    view.observe({"r": up(*FIVE[3:])}, 100)
    view.answered(A, 8, 100.1)
    view.answered(A, 10, 100.5)
    view.answered(IPv4Address("10.0.0.99"), 8, 100.5)
    assert states(view) == SIX_NODES | {A: State.LOST}
    view.advance(100.6)
    assert states(view)[A] is State.LOST


def test_those_that_vanished_one_by_one_within_the_window_are_asked_too() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 0)
    view.observe({"r": up(*FIVE[1:])}, 100)
    view.observe({"r": up(*FIVE[2:])}, 102)
    assert view.wanted_probes(102) == []
    view.observe({"r": up(*FIVE[3:])}, 104)
    assert view.wanted_probes(104) == [A, B, C]
    assert states(view) == SIX_NODES | {A: State.LOST, B: State.LOST}
    view.answered(A, 8, 104.1)
    assert states(view) == SIX_NODES | {B: State.LOST}


def test_those_that_vanished_before_the_window_do_not_count() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 0)
    view.observe({"r": up(*FIVE[1:])}, 100)
    view.observe({"r": up(*FIVE[2:])}, 100 + MASS_WINDOW_S)
    assert view.wanted_probes(106) == []


def test_members_that_come_back_are_no_longer_asked() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 0)
    view.observe({"r": up()}, 100)
    view.observe({"r": up(*FIVE)}, 101)
    assert view.wanted_probes(101) == []
    view.advance(200)
    assert states(view) == SIX_NODES
    assert {member.why for member in view.members} == {"its identity came back"}


def test_members_that_left_are_not_asked() -> None:
    view = View()
    leaving = [told(address, State.LEFT, version=8) for address in (A, B, C, D)]
    view.observe({"r": up(*leaving, FIVE[4])}, 0)
    view.observe({"r": up(FIVE[4])}, 1)
    assert states(view) == {E: State.UP}
    assert view.wanted_probes(1) == []


def test_a_router_that_is_back_without_most_members_has_them_asked_when_its_time_is_over() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 0)
    view.observe({"r": up(FIVE[0], since=50)}, 50)
    view.advance(50 + REFRESH_S)
    assert states(view) == SIX_NODES
    assert view.wanted_probes(50 + REFRESH_S) == [B, C, D, E]


# Damping


def flap(view: View, times: int, every_s: float, address: IPv4Address = A) -> float:
    """It goes and comes `times` times; the time afterwards."""
    others = [one for one in FIVE if one.address != address]
    now = 0.0
    view.observe({"r": up(*FIVE)}, now)
    for _ in range(times):
        view.observe({"r": up(*others)}, now + every_s / 2)
        now += every_s
        view.observe({"r": up(*FIVE)}, now)
    return now


def test_a_member_that_comes_and_goes_is_damped_and_comes_to_rest() -> None:
    view = View()
    now = flap(view, 3, 10)
    assert states(view) == SIX_NODES | {A: State.LOST}
    (share,) = (member.share(5) for member in view.members if member.address == A)
    assert share == Share(100, 0, State.LOST), "no new flows, but the chains keep it"
    view.advance(now + HALF_LIFE_S)
    assert states(view)[A] is State.LOST
    view.advance(now + 2 * HALF_LIFE_S)
    assert states(view) == SIX_NODES
    assert view.members[0].why == "its identity has come to rest"


def test_two_losses_or_slow_ones_are_not_flapping() -> None:
    for times, every_s in ((2, 2), (20, 120)):
        view = View()
        flap(view, times, every_s)
        assert states(view) == SIX_NODES


def test_one_that_never_rests_stays_damped_and_one_that_rests_is_back_within_three_minutes() -> None:
    view = View()
    now = flap(view, 100, 2)
    assert states(view)[A] is State.LOST
    view.advance(now + 3 * HALF_LIFE_S + 1)
    assert states(view) == SIX_NODES


def test_a_damped_member_that_goes_for_good_is_forgotten_like_any_other() -> None:
    view = View()
    now = flap(view, 10, 2)
    view.observe({"r": up(*FIVE[1:])}, now)
    view.advance(now + LOST_KEPT_S - 1)
    assert A in states(view)
    view.advance(now + LOST_KEPT_S)
    assert A not in states(view)


def test_a_damped_member_that_leaves_has_left() -> None:
    view = View()
    now = flap(view, 10, 2)
    view.observe({"r": up(told(A, State.LEFT), *FIVE[1:])}, now)
    assert states(view)[A] is State.LEFT


def test_vanishing_together_does_not_damp() -> None:
    view = View()
    for now in range(0, 40, 2):
        view.observe({"r": up(*FIVE)}, now)
        view.observe({"r": up()}, now + 1)
    view.observe({"r": up(*FIVE)}, 50)
    assert states(view) == SIX_NODES


def test_no_more_than_a_third_of_the_nodes_is_damped() -> None:
    view = View()
    for now in range(0, 300, 6):
        view.observe({"r": up(*FIVE)}, now)
        gone = FIVE[now // 6 % 5]
        view.observe({"r": up(*(one for one in FIVE if one is not gone))}, now + 3)
    view.observe({"r": up(*FIVE)}, 300)
    assert sorted(states(view).values()) == [State.LOST] * 2 + [State.UP] * 3


def test_drains_and_weights_do_not_damp() -> None:
    view = View()
    for now in range(40):
        view.observe({"r": up(told(A, State.DRAINING if now % 2 else State.UP, version=now))}, now)
    view.observe({"r": up(told(A))}, 41)
    assert states(view) == {A: State.UP}


# The last change


def last_change(view: View, address: IPv4Address = A) -> tuple[float, str]:
    member = next(member for member in view.members if member.address == address)
    return max((member.since, member.why), (member.changed, member.change))


def test_the_last_change_is_told_with_its_reason() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 10)
    assert last_change(view) == (10, "its identity was heard")
    view.observe({"r": up(told(A, weight=0, version=10), *FIVE[1:])}, 20)
    assert last_change(view) == (20, "its effective weight fell")
    view.observe({"r": up(told(A, State.DRAINING, version=12), *FIVE[1:])}, 30)
    assert last_change(view) == (30, "it says that it is draining")
    view.observe({"r": up()}, 40)
    assert last_change(view) == (40, "no router tells of it any more; it is being asked")
    view.answered(A, 12, 41)
    assert last_change(view) == (41, "no router tells of it any more, but it answers")
    view.answered(A, 12, 42)
    assert last_change(view)[0] == 41
    view.observe({"r": up(told(A, State.DRAINING, version=12), *FIVE[1:])}, 43)
    assert last_change(view) == (43, "its identity came back")
    view.observe({"r": up(*FIVE[1:])}, 50)
    assert last_change(view) == (50, "its identity was withdrawn")
