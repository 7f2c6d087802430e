# SPDX-License-Identifier: Apache-2.0
"""Flap damping of members, through the view."""

from ipaddress import IPv4Address

from support.reports import ALL_UP, FIVE, A, identity, states, up

from agent.membership.flap_damping import HALF_LIFE_S
from agent.membership.view import LOST_KEPT_S, View
from agent.model import Share, State


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
    assert states(view) == ALL_UP | {A: State.LOST}
    (share,) = (member.share(5) for member in view.members if member.address == A)
    assert share == Share(100, 0, State.LOST), "no new flows, but the chains keep it"
    view.advance(now + HALF_LIFE_S)
    assert states(view)[A] is State.LOST
    view.advance(now + 2 * HALF_LIFE_S)
    assert states(view) == ALL_UP
    assert view.members[0].why == "identity is stable again"


def test_two_losses_or_slow_ones_do_not_damp() -> None:
    for times, every_s in ((2, 2), (20, 120)):
        view = View()
        flap(view, times, every_s)
        assert states(view) == ALL_UP


def test_member_that_flaps_on_stays_damped_and_is_back_within_three_minutes_of_rest() -> None:
    view = View()
    now = flap(view, 100, 2)
    assert states(view)[A] is State.LOST
    view.advance(now + 3 * HALF_LIFE_S + 1)
    assert states(view) == ALL_UP


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
    assert states(view) == ALL_UP


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
