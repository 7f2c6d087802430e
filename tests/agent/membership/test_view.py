# SPDX-License-Identifier: Apache-2.0
"""The rules of the view, one by one. Time is an argument; nothing sleeps."""

from dataclasses import replace
from ipaddress import IPv4Address

from agent.membership.flap_damping import HALF_LIFE_S
from agent.membership.peer_table import REFRESH_S, Advertisement, PeerReport
from agent.membership.view import (
    END_OF_RIB_TIMEOUT_S,
    LOST_KEPT_S,
    MASS_LOSS_WINDOW_S,
    PROBE_LOST_EVERY_S,
    REPLY_WAIT_S,
    View,
)
from agent.model import Share, State

A, B, C, D, E = (IPv4Address(f"10.0.0.{number}") for number in range(11, 16))
DOWN = PeerReport(up=False, advertisements={})


def identity(address: IPv4Address, state: State = State.UP, weight: int = 100, version: int = 0) -> Advertisement:
    return Advertisement(address, 1, {5: Share(100, weight if state is State.UP else 0, state)}, version=version)


def up(*identities: Advertisement, since: float = 0.0) -> PeerReport:
    return PeerReport(up=True, advertisements={one.address: one for one in identities}, since=since)


def states(view: View) -> dict[IPv4Address, State]:
    return {member.address: member.state for member in view.members}


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


# The best advertisement


def weight_of(view: View, address: IPv4Address = A) -> int:
    return next(member.shares[5].effective for member in view.members if member.address == address)


def test_of_two_live_peers_the_higher_version_is_best_in_any_order() -> None:
    old, new = identity(A, weight=10, version=4), identity(A, weight=90, version=6)
    for first, second in ((old, new), (new, old)):
        view = View()
        view.observe({"r": up(first), "s": up(second)}, 0)
        assert weight_of(view) == 90
        view.observe({"s": up(second), "r": up(first)}, 1)
        assert weight_of(view) == 90


def test_lower_version_is_ignored_while_another_live_peer_advertises_the_higher() -> None:
    view = View()
    view.observe({"r": up(identity(A, weight=90, version=6)), "s": up(identity(A, weight=90, version=6))}, 0)
    view.observe({"r": up(identity(A, weight=90, version=6)), "s": up(identity(A, weight=10, version=4))}, 1)
    assert weight_of(view) == 90


def test_lower_version_after_a_reinstall_is_accepted_once_no_peer_advertises_the_higher() -> None:
    high, low = identity(A, weight=90, version=6), identity(A, weight=10, version=4)
    view = View()
    view.observe({"r": up(high), "s": up(high)}, 0)
    view.observe({"r": up(), "s": up(high)}, 1)
    view.observe({"r": up(low), "s": up(high)}, 2)
    assert weight_of(view) == 90
    view.observe({"r": up(low), "s": up()}, 3)
    assert (weight_of(view), states(view)) == (10, {A: State.UP})


def test_live_advertisement_replaces_a_stale_one_even_with_a_lower_version() -> None:
    view = View()
    view.observe({"r": up(identity(A, weight=90, version=6)), "s": up()}, 0)
    view.observe({"r": DOWN, "s": up(identity(A, weight=10, version=4))}, 1)
    assert weight_of(view) == 10
    view.observe({"r": DOWN, "s": DOWN}, 2)
    assert weight_of(view) == 10, "what r advertised is older than what s did, whatever its version"


def test_of_two_contents_under_one_version_all_nodes_choose_the_same() -> None:
    one, other = identity(A, weight=10, version=4), identity(A, weight=90, version=4)
    views = [View(), View()]
    views[0].observe({"r": up(one), "s": up(other)}, 0)
    views[1].observe({"r": up(other), "s": up(one)}, 0)
    assert weight_of(views[0]) == weight_of(views[1])


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


# Mass loss

FIVE = tuple(identity(address, version=8) for address in (A, B, C, D, E))
SIX_NODES = dict.fromkeys((A, B, C, D, E), State.UP)


def test_a_third_of_the_nodes_is_lost_without_a_probe() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 0)
    view.observe({"r": up(*FIVE[2:])}, 100)
    assert states(view) == SIX_NODES | {A: State.LOST, B: State.LOST}
    assert view.take_due_probes(100) == []


def test_one_of_two_nodes_is_lost_without_a_probe() -> None:
    view = View()
    view.observe({"r": up(identity(A))}, 0)
    view.observe({"r": up()}, 100)
    assert states(view) == {A: State.LOST}
    assert view.take_due_probes(100) == []


def test_in_a_mass_loss_members_that_reply_to_probes_keep_their_place() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 0)
    view.observe({"r": up(*FIVE[3:])}, 100)
    assert states(view) == SIX_NODES
    assert view.take_due_probes(100) == [A, B, C]
    assert view.take_due_probes(100.1) == [], "each once"
    for address in (A, B):
        view.receive_reply(address, 8, 100.2)
    for tenth in range(1002, 1400):
        view.advance(tenth / 10)
        for address in view.take_due_probes(tenth / 10):
            if address in (A, B):
                view.receive_reply(address, 8, tenth / 10)
    assert states(view) == SIX_NODES | {C: State.LOST}
    # A member that stops replying is lost then.
    view.receive_reply(A, 8, 141)
    view.advance(140 + REPLY_WAIT_S)
    assert states(view) == SIX_NODES | {B: State.LOST, C: State.LOST}


def test_in_a_mass_loss_members_that_do_not_reply_are_lost() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 0)
    view.observe({"r": up(*FIVE[3:])}, 100)
    view.advance(100 + REPLY_WAIT_S - 0.1)
    assert states(view) == SIX_NODES
    view.advance(100 + REPLY_WAIT_S)
    assert states(view) == SIX_NODES | dict.fromkeys((A, B, C), State.LOST)
    # They are probed on, more rarely; one that was only busy is up again, and forgotten ones are not probed.
    view.take_due_probes(102)
    assert view.take_due_probes(102 + PROBE_LOST_EVERY_S) == [A, B, C]
    view.receive_reply(B, 8, 108)
    assert states(view) == SIX_NODES | dict.fromkeys((A, C), State.LOST)
    view.advance(800)
    assert states(view) == dict.fromkeys((B, D, E), State.UP) | {B: State.LOST}
    assert view.take_due_probes(800) == [B]


def test_reply_under_another_version_does_not_keep_the_place() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 0)
    view.observe({"r": up(*FIVE[3:])}, 100)
    view.receive_reply(A, 8, 100.1)
    view.receive_reply(A, 10, 100.5)
    view.receive_reply(IPv4Address("10.0.0.99"), 8, 100.5)
    assert states(view) == SIX_NODES | {A: State.LOST}
    view.advance(100.6)
    assert states(view)[A] is State.LOST


def test_members_that_vanish_one_by_one_within_the_window_are_probed_too() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 0)
    view.observe({"r": up(*FIVE[1:])}, 100)
    view.observe({"r": up(*FIVE[2:])}, 102)
    assert view.take_due_probes(102) == []
    view.observe({"r": up(*FIVE[3:])}, 104)
    assert view.take_due_probes(104) == [A, B, C]
    assert states(view) == SIX_NODES | {A: State.LOST, B: State.LOST}
    view.receive_reply(A, 8, 104.1)
    assert states(view) == SIX_NODES | {B: State.LOST}


def test_members_that_vanished_before_the_window_do_not_count() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 0)
    view.observe({"r": up(*FIVE[1:])}, 100)
    view.observe({"r": up(*FIVE[2:])}, 100 + MASS_LOSS_WINDOW_S)
    assert view.take_due_probes(106) == []


def test_members_that_return_are_no_longer_probed() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 0)
    view.observe({"r": up()}, 100)
    view.observe({"r": up(*FIVE)}, 101)
    assert view.take_due_probes(101) == []
    view.advance(200)
    assert states(view) == SIX_NODES
    assert {member.why for member in view.members} == {"identity received again"}


def test_members_that_left_are_not_probed() -> None:
    view = View()
    leaving = [identity(address, State.LEFT, version=8) for address in (A, B, C, D)]
    view.observe({"r": up(*leaving, FIVE[4])}, 0)
    view.observe({"r": up(FIVE[4])}, 1)
    assert states(view) == {E: State.UP}
    assert view.take_due_probes(1) == []


def test_members_that_a_returned_router_does_not_advertise_in_time_are_probed() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 0)
    view.observe({"r": up(FIVE[0], since=50)}, 50)
    view.advance(50 + REFRESH_S)
    assert states(view) == SIX_NODES
    assert view.take_due_probes(50 + REFRESH_S) == [B, C, D, E]


# Flap damping


def flap(view: View, times: int, every_s: float, address: IPv4Address = A) -> float:
    """Withdraw and advertise a member `times` times; return the time afterwards."""
    others = [one for one in FIVE if one.address != address]
    now = 0.0
    view.observe({"r": up(*FIVE)}, now)
    for _ in range(times):
        view.observe({"r": up(*others)}, now + every_s / 2)
        now += every_s
        view.observe({"r": up(*FIVE)}, now)
    return now


def test_flapping_member_is_damped_until_it_is_stable() -> None:
    view = View()
    now = flap(view, 3, 10)
    assert states(view) == SIX_NODES | {A: State.LOST}
    (share,) = (member.share(5) for member in view.members if member.address == A)
    assert share == Share(100, 0, State.LOST), "no new flows, but the chains keep it"
    view.advance(now + HALF_LIFE_S)
    assert states(view)[A] is State.LOST
    view.advance(now + 2 * HALF_LIFE_S)
    assert states(view) == SIX_NODES
    assert view.members[0].why == "identity is stable again"


def test_two_losses_or_slow_ones_do_not_damp() -> None:
    for times, every_s in ((2, 2), (20, 120)):
        view = View()
        flap(view, times, every_s)
        assert states(view) == SIX_NODES


def test_member_that_flaps_on_stays_damped_and_is_back_within_three_minutes_of_rest() -> None:
    view = View()
    now = flap(view, 100, 2)
    assert states(view)[A] is State.LOST
    view.advance(now + 3 * HALF_LIFE_S + 1)
    assert states(view) == SIX_NODES


def test_damped_member_that_does_not_return_is_forgotten_like_any_other() -> None:
    view = View()
    now = flap(view, 10, 2)
    view.observe({"r": up(*FIVE[1:])}, now)
    view.advance(now + LOST_KEPT_S - 1)
    assert A in states(view)
    view.advance(now + LOST_KEPT_S)
    assert A not in states(view)


def test_damped_member_that_leaves_has_left() -> None:
    view = View()
    now = flap(view, 10, 2)
    view.observe({"r": up(identity(A, State.LEFT), *FIVE[1:])}, now)
    assert states(view)[A] is State.LEFT


def test_mass_loss_does_not_damp() -> None:
    view = View()
    for now in range(0, 40, 2):
        view.observe({"r": up(*FIVE)}, now)
        view.observe({"r": up()}, now + 1)
    view.observe({"r": up(*FIVE)}, 50)
    assert states(view) == SIX_NODES


def test_at_most_a_third_of_the_nodes_is_damped() -> None:
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
        view.observe({"r": up(identity(A, State.DRAINING if now % 2 else State.UP, version=now))}, now)
    view.observe({"r": up(identity(A))}, 41)
    assert states(view) == {A: State.UP}


# The last change


def last_change(view: View, address: IPv4Address = A) -> tuple[float, str]:
    member = next(member for member in view.members if member.address == address)
    return max((member.since, member.why), (member.changed, member.change))


def test_last_change_has_its_time_and_reason() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 10)
    assert last_change(view) == (10, "identity received")
    view.observe({"r": up(identity(A, weight=0, version=10), *FIVE[1:])}, 20)
    assert last_change(view) == (20, "its effective weight fell")
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
