# SPDX-License-Identifier: Apache-2.0
"""When most nodes vanish at once: who is probed, and who keeps its place."""

from ipaddress import IPv4Address

from support.reports import ALL_UP, FIVE, A, B, C, D, E, identity, states, up

from agent.membership.peer_table import REFRESH_S
from agent.membership.view import MASS_LOSS_WINDOW_S, PROBE_LOST_EVERY_S, REPLY_WAIT_S, View
from agent.model import State


def test_a_third_of_the_nodes_is_lost_without_a_probe() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 0)
    view.observe({"r": up(*FIVE[2:])}, 100)
    assert states(view) == ALL_UP | {A: State.LOST, B: State.LOST}
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
    assert states(view) == ALL_UP
    assert view.take_due_probes(100) == [A, B, C]
    assert view.take_due_probes(100.1) == [], "each once"
    for address in (A, B):
        view.receive_reply(address, 8, 100.2)
    for tenth in range(1002, 1400):
        view.advance(tenth / 10)
        for address in view.take_due_probes(tenth / 10):
            if address in (A, B):
                view.receive_reply(address, 8, tenth / 10)
    assert states(view) == ALL_UP | {C: State.LOST}
    # A member that stops replying is lost then.
    view.receive_reply(A, 8, 141)
    view.advance(140 + REPLY_WAIT_S)
    assert states(view) == ALL_UP | {B: State.LOST, C: State.LOST}


def test_in_a_mass_loss_members_that_do_not_reply_are_lost() -> None:
    view = View()
    view.observe({"r": up(*FIVE)}, 0)
    view.observe({"r": up(*FIVE[3:])}, 100)
    view.advance(100 + REPLY_WAIT_S - 0.1)
    assert states(view) == ALL_UP
    view.advance(100 + REPLY_WAIT_S)
    assert states(view) == ALL_UP | dict.fromkeys((A, B, C), State.LOST)
    # They are probed on, more rarely; one that was only busy is up again, and forgotten ones are not probed.
    view.take_due_probes(102)
    assert view.take_due_probes(102 + PROBE_LOST_EVERY_S) == [A, B, C]
    view.receive_reply(B, 8, 108)
    assert states(view) == ALL_UP | dict.fromkeys((A, C), State.LOST)
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
    assert states(view) == ALL_UP | {A: State.LOST}
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
    assert states(view) == ALL_UP | {A: State.LOST, B: State.LOST}
    view.receive_reply(A, 8, 104.1)
    assert states(view) == ALL_UP | {B: State.LOST}


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
    assert states(view) == ALL_UP
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
    assert states(view) == ALL_UP
    assert view.take_due_probes(50 + REFRESH_S) == [B, C, D, E]
